"""Files to a gateway's uploads, in parts, several at once; interrupted, even killed, it goes on.

What has arrived is remembered in a small file of the user's cache, by gateway, key, path, size and
time of change. Whoever reads it could end the upload in the user's name for as long as the gateway
keeps what is incomplete, so nobody else can.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quickthaw.cli.remote.gateway import Answer, RemoteGateway, check
from quickthaw.wire.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

PART_BYTES = 16 << 20
PARTS_MAX = 9_000
"""Larger files have larger parts; a gateway takes 10,000."""
AT_ONCE = 4

OnBytes = Callable[[int], None]


@dataclass(slots=True)
class _Upload:
    """As it is remembered."""

    path: str
    """Of the file at the gateway."""
    ticket: str
    part_bytes: int
    parts: dict[str, str] = field(default_factory=dict[str, str])
    """The tag of each part that has arrived, by its number as JSON has names."""
    complete: bool = False


_REFUSALS = (InvalidArgument, Unauthenticated, PermissionDenied, NotFound)


class Uploader:
    """`memory`: the folder for what is remembered, made if it is missing. Where nothing can be
    written, nothing is remembered."""

    def __init__(
        self, gateway: RemoteGateway, key: str, memory: Path, part_bytes: int = PART_BYTES
    ) -> None:
        self._gateway = gateway
        self._who = hashlib.sha256(f"{gateway.url}\n{key}".encode()).hexdigest()
        self._memory = memory
        self._part_bytes = part_bytes
        self._lock = threading.Lock()
        with suppress(OSError):
            memory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def upload(self, path: Path, on_bytes: OnBytes) -> str:
        """The URL of the file at the gateway; what is there already is not sent again.

        `on_bytes` is told of each part, from several threads. Raises InvalidArgument for a file
        that is empty or changes meanwhile, what the gateway refuses it with, StoreUnavailable.
        """
        before = path.stat()
        if not before.st_size:
            raise InvalidArgument(f"{path}: an empty file")
        memory = self._memory / f"{self._name(path, before)}.json"
        upload = self._remembered(memory)
        if upload is not None and upload.complete and not self._is_there(upload, before.st_size):
            upload = None
        if upload is not None:
            told = 0

            def count(size: int) -> None:
                nonlocal told
                with self._lock:
                    told += size
                on_bytes(size)

            try:
                self._sent(path, before, upload, memory, count)
                return f"{self._gateway.url}{upload.path}"
            except _REFUSALS:
                # The gateway may have forgotten what it had of it. A new upload is refused with
                # the same words if it is something else.
                on_bytes(-told)
        upload = self._begun(path, before.st_size, memory)
        self._sent(path, before, upload, memory, on_bytes)
        return f"{self._gateway.url}{upload.path}"

    def _sent(
        self, path: Path, before: os.stat_result, upload: _Upload, memory: Path, on_bytes: OnBytes
    ) -> None:
        size = before.st_size
        offsets = range(0, size, upload.part_bytes)
        missing: list[int] = []
        for index, start in enumerate(offsets, 1):
            if upload.complete or str(index) in upload.parts:
                on_bytes(min(upload.part_bytes, size - start))
            else:
                missing.append(index)
        if upload.complete:
            return
        with path.open("rb") as file, ThreadPoolExecutor(AT_ONCE) as pool:

            def send(number: int) -> None:
                start = offsets[number - 1]
                data = os.pread(file.fileno(), upload.part_bytes, start)
                self._part(upload, number, data, memory)
                on_bytes(len(data))

            waiting = [pool.submit(send, number) for number in missing]
            try:
                for each in waiting:
                    each.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
            with suppress(OSError):
                memory.unlink()
            raise InvalidArgument(f"{path}: it changed while it was sent; repeat")
        parts = [{"partNumber": int(n), "etag": tag} for n, tag in upload.parts.items()]
        self._checked("POST", f"{upload.path}/multipart/{upload.ticket}/complete", {"parts": parts})
        upload.complete = True
        self._remember(memory, upload)

    def _part(self, upload: _Upload, number: int, data: bytes, memory: Path) -> None:
        where = f"{upload.path}/multipart/{upload.ticket}/{number}"
        answer = self._checked("PUT", where, data)
        with self._lock:
            upload.parts[str(number)] = str(answer.json()["etag"])
            self._remember(memory, upload)

    def _checked(self, method: str, path: str, body: bytes | dict[str, object]) -> Answer:
        return check(self._gateway.call(method, path, body))

    def _begun(self, path: Path, size: int, memory: Path) -> _Upload:
        headers = {"x-fal-file-name": path.name}
        begun = check(
            self._gateway.call("POST", "/cdn/files/upload/multipart", headers=headers)
        ).json()
        part_bytes = max(self._part_bytes, -(-size // PARTS_MAX))
        upload = _Upload(path_of(begun["access_url"]), begun["uploadId"], part_bytes)
        self._remember(memory, upload)
        return upload

    def _is_there(self, upload: _Upload, size: int) -> bool:
        """It may have expired since."""
        answer = self._gateway.call("GET", upload.path, headers={"range": "bytes=0-0"})
        return answer.headers.get("content-range", "").endswith(f"/{size}")

    # ---- memory --------------------------------------------------------------------------------

    def _name(self, path: Path, status: os.stat_result) -> str:
        facts = [self._who, str(path.resolve()), status.st_size, status.st_mtime_ns]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    @staticmethod
    def _remembered(memory: Path) -> _Upload | None:
        try:
            found: Any = json.loads(memory.read_text())
            return _Upload(**found)
        except (OSError, ValueError, TypeError):
            return None

    @staticmethod
    def _remember(memory: Path, upload: _Upload) -> None:
        # Another process may be sending the same file.
        partial = memory.with_suffix(f".{os.getpid()}.part")
        with suppress(OSError):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(upload), file)
            partial.replace(memory)


def path_of(url: str) -> str:
    """Below the gateway as we reach it, which may be by another name than its own."""
    path = urlsplit(url).path
    at = path.find("/files/")
    if at < 0:
        raise Unavailable(f"{url!r} is no file of a gateway")
    return path[at:]
