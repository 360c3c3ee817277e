"""LoRAs that requests bring: read once, kept within bounds, bound to the model of a run.

A gateway has fetched and looked at each file and left it in the blob store under a name that only
its bytes lead to (`blob:loras/<name>`); a small one may be inside the input (`data:`), and one that
is a model of the catalog is what the scheduler wrote for its name (`snapshot:<digest>@<uri>`).
Nothing is fetched from the network otherwise. The file is a stranger's, so its header is checked
before a library sees it, and it is read while the model is loaded, which is not charged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quickthaw.snapshot import LoadedModel, SnapshotStore
from quickthaw.snapshot.adapters import Bound, LooseAdapter, read_loose, targets, unpacked
from quickthaw.snapshot.adapters.packed import read_packed
from quickthaw.snapshot.files import full_disk_named
from quickthaw.snapshot.remote import RemoteSettings
from quickthaw.wire.errors import (
    FieldViolation,
    InvalidArgument,
    InvalidInput,
    NotFound,
    SnapshotInvalid,
)
from quickthaw.worker.adapter_limits import AdapterLimits
from quickthaw.worker.attempts import ComponentLoad, Tier
from quickthaw.worker.inputs import LoraInput

logger = logging.getLogger(__name__)

ReadBlobTo = Callable[[str, Path, int], str]
"""A blob by its key, into a file; no more than so many bytes. Its SHA-256. Raises FileNotFoundError
and `InvalidArgument` for a larger one."""

_STORED: Final = re.compile(r"blob:(loras/[A-Za-z0-9_-]{43})")
_PACKED: Final = re.compile(r"snapshot:([0-9a-f]{64})@(.*)", re.DOTALL)
_INLINE: Final = re.compile(r"data:[a-z0-9.+/-]{0,100}(?:;[a-z0-9=-]{1,40})?;base64,")


def refuse_blobs(key: str, path: Path, bytes_max: int) -> str:
    raise FileNotFoundError(key)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A LoRA as it was read for one base. `digest`: of the file or of the snapshot."""

    adapters: tuple[LooseAdapter, ...]
    digest: str

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.adapters)


class _Shelf:
    """The least recently used goes first; what is larger than the whole shelf is not kept."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self.nbytes = 0

    def get(self, key: tuple[str, str]) -> _Kept | None:
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: tuple[str, str], kept: _Kept) -> None:
        if key in self._kept or kept.nbytes > self._bytes_max:
            return
        self._kept[key] = kept
        self.nbytes += kept.nbytes
        while self.nbytes > self._bytes_max:
            _, gone = self._kept.popitem(last=False)
            self.nbytes -= gone.nbytes


class Adapters:
    """Thread-safe; `bring` is called by one thread at a time.

    `folder`: for files while they are read; what an earlier process left there goes. None: the
    system's, for tests and tools.
    """

    def __init__(
        self,
        store: SnapshotStore,
        folder: Path | None = None,
        limits: AdapterLimits | None = None,
        remote: RemoteSettings | None = None,
        read_blob: ReadBlobTo = refuse_blobs,
    ) -> None:
        self._store = store
        self._folder = folder
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._limits = limits or AdapterLimits()
        self._remote = remote or RemoteSettings()
        self._read_blob = read_blob
        self._host = _Shelf(self._limits.kept_bytes_max)
        self._device = _Shelf(self._limits.device_bytes_max)
        self._lock = threading.Lock()
        self._brought: dict[str, tuple[Bound, ...]] = {}  # by attempt id

    @property
    def kept_bytes(self) -> int:
        """In host memory."""
        return self._host.nbytes

    def bring(
        self, attempt_id: str, loaded: LoadedModel, loras: Sequence[LoraInput]
    ) -> tuple[ComponentLoad, ...]:
        """Makes an attempt's LoRAs ready for its run, and tells how they came.

        Raises InvalidInput, naming the item; StorageFull; what the blob store raises.
        """
        bound: list[Bound] = []
        told: list[ComponentLoad] = []
        for index, lora in enumerate(loras):
            with _naming(f"loras[{index}]"):
                line = self._bring(loaded, lora, f"loras[{index}]")
                bound += line[0]
                told.append(line[1])
        if bound:
            with self._lock:
                self._brought[attempt_id] = tuple(bound)
        return tuple(told)

    def take(self, attempt_id: str) -> tuple[Bound, ...]:
        """What was brought for the attempt, once."""
        with self._lock:
            return self._brought.pop(attempt_id, ())

    def _bring(
        self, loaded: LoadedModel, lora: LoraInput, where: str
    ) -> tuple[list[Bound], ComponentLoad]:
        began = time.monotonic()
        parts = loaded.pipeline.components
        base = _base_of(loaded)
        key = (_key(lora.path), base)
        source, kept = Tier.PINNED, self._host.get(key)
        if kept is None:
            source, kept = Tier.REMOTE, self._read(loaded, lora, where)
            self._host.put(key, kept)
        read = time.monotonic()
        device = next(parts[part.name] for part in targets(loaded.manifest)).device
        if device.type != "cpu":
            if (there := self._device.get(key)) is not None:
                source, kept = Tier.VRAM, there
            else:
                adapters = tuple(each.to(device) for each in kept.adapters)
                kept = _Kept(adapters, kept.digest)
                self._device.put(key, kept)
        elif source is Tier.PINNED:
            source = Tier.VRAM  # which is the same memory
        bound = [each.bound(parts, lora.scale, where) for each in kept.adapters]
        ended = time.monotonic()
        moved = source is not Tier.VRAM
        return bound, ComponentLoad(
            name=where,
            digest=kept.digest,
            size_bytes=kept.nbytes,
            source=source,
            copier="adapter" if moved else "",
            read_seconds=read - began if moved else 0.0,
            copy_seconds=ended - read if moved else 0.0,
            why="named by the request" if moved else "",
        )

    def _read(self, loaded: LoadedModel, lora: LoraInput, where: str) -> _Kept:
        limit = self._limits.file_bytes_max
        parts = loaded.pipeline.components
        if (packed := _PACKED.fullmatch(lora.path)) is not None:
            digest, uri = packed.groups()
            read = read_packed(digest, self._store, uri, limit, self._remote)
            missing = {part.adapter.target for part, _ in read if part.adapter} - parts.keys()
            if missing:
                raise InvalidArgument(f"this model has no {min(missing)}, which it adapts")
            return _Kept(tuple(unpacked(part, held, parts) for part, held in read), digest)
        with (
            full_disk_named(self._folder or Path(tempfile.gettempdir())),
            tempfile.TemporaryDirectory(prefix="lora-", dir=self._folder) as folder,
        ):
            path = Path(folder, "lora.safetensors")
            digest = self._place(lora.path, path, limit)
            return _Kept((read_loose(path, loaded.manifest, parts, where, limit),), digest)

    def _place(self, named: str, path: Path, bytes_max: int) -> str:
        """Writes the file; its SHA-256."""
        if (stored := _STORED.fullmatch(named)) is not None:
            try:
                return self._read_blob(stored[1], path, bytes_max)
            except FileNotFoundError as error:
                raise NotFound("it is not kept any more; send it again") from error
        if (head := _INLINE.match(named[:200])) is None:
            raise InvalidArgument(
                "it is neither a file nor a model: send the request through a gateway, or the file "
                "as data:application/octet-stream;base64,..."
            )
        data_bytes = (len(named) - head.end()) * 3 // 4
        if data_bytes > bytes_max:
            raise InvalidArgument(f"it has {data_bytes} bytes, and this worker takes {bytes_max}")
        try:
            data = base64.b64decode(named[head.end() :], validate=True)
        except binascii.Error as error:
            raise InvalidArgument(f"it is a data: URI that is no base64: {error}") from error
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """What is wrong with a LoRA is wrong with the input: its place says which."""
    try:
        yield
    except (InvalidArgument, SnapshotInvalid, NotFound) as error:
        field = f"input.{where}.path"
        told = error.message.removeprefix(f"{where}: ")
        raise InvalidInput(f"{field}: {told}", violations=(FieldViolation(field, told),)) from error


def _key(path: str) -> str:
    """What tells one LoRA from another, in few characters. No other path has a packed one's."""
    if (packed := _PACKED.fullmatch(path)) is not None:
        return f"snapshot:{packed[1]}"
    return hashlib.sha256(path.encode()).hexdigest()


def _base_of(loaded: LoadedModel) -> str:
    """What LoRAs are read against: their tensors take its types, and their names lead into it."""
    return " ".join(f"{part.name}={part.digest}" for part in targets(loaded.manifest))
