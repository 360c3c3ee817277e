"""The folder of compiled code: `<environment>/<block and call>.so` with a signed `.json` beside.

A missing, stale or damaged entry is never an error for who asks: there is no code then, and the
block runs as it always did.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from quickthaw.snapshot.compiled.calls import Form, to_json
from quickthaw.snapshot.compiled.environment import environment, key_of
from quickthaw.snapshot.compiled.scratch import scratch_file, sweep
from quickthaw.snapshot.compiled.seal import (
    Untrusted,
    check_private,
    installation_key,
    is_signed,
    private_folder,
    signature,
)
from quickthaw.snapshot.compiled.sizes import Sizes
from quickthaw.snapshot.fields import JsonValue

DOCUMENT_BYTES_MAX = 1 << 20
CODE_BYTES_MAX = 512 << 20
ENTRIES_MAX = 1024
"""Of all environments together; some two megabytes each. Those used longest ago go first."""
_KEY_CHARS = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Code:
    """A checked shared object of one block, and one form of call or several."""

    key: str
    path: Path
    outputs: str
    """`tensor`, or `tuple` or `list` of as many as the code gives."""
    sizes: Sizes | None = None
    """That it is for; None if its form of call says it all."""

    def admits(self, form: Form) -> bool:
        """Whether it is for this form, if it was found under its key."""
        return self.sizes is None or self.sizes.admits(form)


class CompiledCache:
    """Code for one device, in `folder`, signed with the key in `key_file`.

    `on_refused` is told of each entry that is there but must not be used. Raises Untrusted if the
    folder or the key are not ours alone.
    """

    def __init__(
        self,
        folder: Path,
        key_file: Path,
        device: torch.device,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.root = private_folder(folder)
        sweep(self.root)
        self.device = device
        self._key = installation_key(key_file)
        self._on_refused = on_refused
        self.generation = 0
        """How often code was made since; whoever remembers that there was none looks again."""
        self.environment = environment(device)
        self.folder = private_folder(self.root / key_of(self.environment)[:_KEY_CHARS])

    def key(self, component: str, block: str, form: Form) -> str:
        """`component`: what the component's shape hashes to; `block`: what `digest_of` says;
        `form`: an open one for code of all sizes.
        """
        document = {"component": component, "block": block, "call": to_json(form)}
        return key_of(document)[:_KEY_CHARS]

    def find(self, key: str) -> Code | None:
        """The code of that key, checked; None if there is none that may be run."""
        try:
            return self._read(key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("compiled code is not used: %s", error)
            self._on_refused()
            return None

    def _read(self, key: str) -> Code:
        code, beside = self._paths(key)
        for path, folder in ((self.root, True), (self.folder, True), (code, False)):
            check_private(path, folder=folder)
        check_private(beside)
        if beside.stat().st_size > DOCUMENT_BYTES_MAX or code.stat().st_size > CODE_BYTES_MAX:
            raise Untrusted(f"{beside}: too large to be ours")
        document = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or not is_signed(
            self._key, document, document.pop("signature", None)
        ):
            raise Untrusted(f"{beside}: not signed by this installation; remove it")
        with code.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        signed = (document["key"], document["sha256"], document["environment"])
        if signed != (key, digest, self.environment):
            raise Untrusted(f"{code}: not what was signed; remove it")
        os.utime(code)  # for `_make_room`
        sizes = Sizes.from_json(document["sizes"]) if document["sizes"] is not None else None
        return Code(key, code, str(document["outputs"]), sizes)

    def add(
        self,
        key: str,
        content: bytes,
        outputs: str,
        told: Mapping[str, JsonValue],
        sizes: Sizes | None = None,
    ) -> Path:
        """Signs and keeps code; `told` is for people who look into the file."""
        code, beside = self._paths(key)
        document: dict[str, JsonValue] = {
            "key": key,
            "outputs": outputs,
            "sizes": sizes.to_json() if sizes is not None else None,
            "sha256": hashlib.sha256(content).hexdigest(),
            "environment": dict(self.environment),
            "told": dict(told),
        }
        sealed = {**document, "signature": signature(self._key, document)}
        # The code first: an entry exists as soon as there is a document.
        self._put(code, content)
        self._put(beside, json.dumps(sealed, indent=1).encode())
        self._make_room()
        return code

    def _make_room(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # another process makes room as well
            found = sorted(self.root.glob("*/*.so"), key=lambda path: path.stat().st_mtime_ns)
            for path in found[: max(0, len(found) - ENTRIES_MAX)]:
                path.with_suffix(".json").unlink()
                path.unlink()

    def _put(self, path: Path, content: bytes) -> None:
        with scratch_file(path) as descriptor, os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.so", self.folder / f"{key}.json"
