"""Files of weights that requests named: by content, each once, the least recently used first to go.

A file lies at `loras/<name>`, a name that only its bytes and the gateways' secret lead to: whoever
brings the same bytes gets the same file, and who does not have them cannot ask for it. When it was
last used is the age of an empty blob at `loras-used/<name>`. Several gateways may share the store,
so what they know of it is looked up anew every minute.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from quickthaw.gateway.storage.blobs import Blobs
from quickthaw.gateway.storage.expiry import Expiry
from quickthaw.gateway.storage.refusals import UploadRefused
from quickthaw.gateway.storage.weights import checked
from quickthaw.wire.errors import ResourceExhausted

FOLDER: Final = "loras"
USED: Final = "loras-used"
KIND: Final = "lora"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{43}|staged-[0-9a-f]{32}")
_STAGED: Final = "staged-"
_LOOKED_SECONDS: Final = 60.0


class WeightsTooLarge(UploadRefused):
    pass


@dataclass(slots=True)
class _Stored:
    size_bytes: int
    used_seconds: float


@dataclass(slots=True)
class WeightsStore:
    """Of one gateway. `kept_seconds`: how long after its last use a file is there for requests that
    wait; nothing goes before, and everything goes some time after `idle_seconds`."""

    blobs: Blobs
    expiry: Expiry
    secret: bytes
    file_bytes_max: int
    bytes_max: int
    files_max: int
    kept_seconds: float
    idle_seconds: float
    now: Callable[[], float]
    _known: dict[str, _Stored] = field(default_factory=dict[str, _Stored])
    _looked_seconds: float = float("-inf")

    def __post_init__(self) -> None:
        self.expiry.judge(KIND, self._judge)

    async def keep(self, name: str, data: AsyncIterable[bytes]) -> str:
        """Writes a file, looking at it while it arrives; the name that leads to it here.

        `name`: what errors call it. Raises UploadRefused, WeightsTooLarge, ResourceExhausted where
        there is no room, the errors of the blob store, and whatever `data` raises.
        """
        digest = hashlib.sha256()
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for piece in checked(name, data):
                size += len(piece)
                if size > self.file_bytes_max:
                    raise WeightsTooLarge(f"{name}: it is over {self.file_bytes_max} bytes")
                digest.update(piece)
                yield piece

        staged = f"{_STAGED}{secrets.token_hex(16)}"
        await self.expiry.mark(KIND, staged, self.now() + self.kept_seconds)
        await self.blobs.write(f"{FOLDER}/{staged}", counted())
        try:
            key = self._key(digest.digest())
            if not await self.use(key):
                await self._make_room(size)
                await self.expiry.mark(KIND, key, self.now() + self.idle_seconds)
                await self._mark_used(key, size)
                await self.blobs.move(f"{FOLDER}/{staged}", f"{FOLDER}/{key}")
            return key
        finally:
            await self.blobs.delete([f"{FOLDER}/{staged}"])

    async def use(self, key: str) -> bool:
        """Whether it is there; then it stays for a while."""
        size = await self.blobs.size(f"{FOLDER}/{key}")
        if size is None:
            self._known.pop(key, None)
            return False
        known = self._known.get(key)
        if known is None or self.now() - known.used_seconds > self.kept_seconds / 4:
            await self._mark_used(key, size)
        return True

    def _key(self, digest: bytes) -> str:
        found = hmac.digest(self.secret, b"quickthaw lora 1\n" + digest, "sha256")
        return base64.urlsafe_b64encode(found).rstrip(b"=").decode()

    async def _mark_used(self, key: str, size: int) -> None:
        self._known[key] = _Stored(size, self.now())
        await self.blobs.write(f"{USED}/{key}", b"")

    async def _make_room(self, size: int) -> None:
        await self._look()
        total, files = sum(each.size_bytes for each in self._known.values()), len(self._known)
        leaving: list[str] = []
        for key, each in sorted(self._known.items(), key=lambda pair: pair[1].used_seconds):
            if total + size <= self.bytes_max and files < self.files_max:
                break
            if each.used_seconds + self.kept_seconds > self.now():
                raise ResourceExhausted(
                    f"the files of LoRAs in use fill the {self.bytes_max} bytes and "
                    f"{self.files_max} files that there are for them; try again later",
                    retry_delay_seconds=60.0,
                )
            total, files = total - each.size_bytes, files - 1
            leaving.append(key)
        await self._delete(leaving)

    async def _look(self) -> None:
        if self.now() - self._looked_seconds < _LOOKED_SECONDS:
            return
        used = {_name_of(blob.key): blob async for blob in self.blobs.under(USED)}
        found: dict[str, _Stored] = {}
        async for blob in self.blobs.under(FOLDER):
            key = _name_of(blob.key)
            if key.startswith(_STAGED):
                continue  # on its way, or soon gone
            seen = used[key].modified_seconds if key in used else blob.modified_seconds
            found[key] = _Stored(blob.size_bytes, seen)
        self._known, self._looked_seconds = found, self.now()

    async def _delete(self, keys: list[str]) -> None:
        if keys:
            await self.blobs.delete(
                [f"{folder}/{key}" for key in keys for folder in (FOLDER, USED)]
            )
        for key in keys:
            self._known.pop(key, None)

    async def _judge(self, key: str, now: float) -> float | None:
        if not _NAME.fullmatch(key):
            return None
        if not key.startswith(_STAGED):
            used = await self.blobs.modified_seconds(f"{USED}/{key}")
            if used is not None and used + self.idle_seconds > now:
                return used + self.idle_seconds
        await self._delete([key])
        return None


def _name_of(key: str) -> str:
    return key.rpartition("/")[2]
