"""Uploaded files: a record and one or more pieces each, under an unguessable id.

How they lie in the store is in `quickthaw.wire.uploads`, since packers read them too. The owner in
their keys is a keyed digest of the tenant's name, so that what a tenant keeps can be counted and
its name appears in no URL. A file never changes; it ends when it expires.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast

from quickthaw.gateway.ranges import ByteRange
from quickthaw.gateway.storage.blobs import Blobs
from quickthaw.gateway.storage.expiry import Expiry
from quickthaw.gateway.storage.lifecycle import Lifecycle
from quickthaw.gateway.storage.refusals import QuotaExceeded, UploadRefused
from quickthaw.gateway.storage.weights import WeightsCheck, checked, is_weights
from quickthaw.wire.errors import ArtifactNotFound
from quickthaw.wire.uploads import (
    FILE_ID,
    OWNER_CHARS,
    RECORD_BYTES_MAX,
    Piece,
    folder_of,
    record_key,
)

PARTS_MAX: Final = 10_000
KIND: Final = "upload"
_USAGE_SECONDS: Final = 60.0
_FOUND_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to bring one file, and what is known of it before it is there."""

    file_id: str
    tenant: str
    name: str
    content_type: str
    lifecycle: Lifecycle

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ticket:
        """Of what `as_json` made."""
        return cls(**{**value, "lifecycle": Lifecycle.from_json(value["lifecycle"])})


@dataclass(frozen=True, slots=True)
class StoredFile:
    file_id: str
    tenant: str
    name: str
    content_type: str
    lifecycle: Lifecycle
    pieces: Sequence[Piece]
    created_seconds: float
    sha256: str = ""
    """Of a file that came in one piece; otherwise empty."""

    @property
    def size_bytes(self) -> int:
        return sum(piece.size_bytes for piece in self.pieces)

    @property
    def expires_seconds(self) -> float | None:
        seconds = self.lifecycle.seconds
        return None if seconds is None else self.created_seconds + seconds

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> StoredFile:
        value = cast("dict[str, Any]", json.loads(text))
        value["pieces"] = tuple(Piece(**piece) for piece in value["pieces"])
        value["lifecycle"] = Lifecycle.from_json(value["lifecycle"])
        return cls(**value)


@dataclass(slots=True)
class _Usage:
    used_bytes: int
    counted_seconds: float


@dataclass(slots=True)
class Uploads:
    blobs: Blobs
    expiry: Expiry
    secret: bytes
    """Shared by replicas."""
    file_bytes_max: int
    tenant_bytes_max: int
    """Counted anew every minute by each gateway, so that several together may exceed it a bit."""
    partial_seconds: float
    """After which what was begun and not completed is deleted."""
    now: Callable[[], float] = time.time
    _usage: dict[str, _Usage] = field(default_factory=dict[str, _Usage])
    _arriving: Counter[str] = field(default_factory=Counter[str])
    """Bytes by tenant of what is on its way at this moment."""

    def __post_init__(self) -> None:
        self.expiry.judge(KIND, self._judge)

    def ticket(self, tenant: str, name: str, content_type: str, lifecycle: Lifecycle) -> Ticket:
        file_id = self._owner(tenant) + secrets.token_urlsafe(24)
        return Ticket(file_id, tenant, name, content_type, lifecycle)

    async def store(
        self, ticket: Ticket, data: AsyncIterable[bytes], declared_bytes: int | None = None
    ) -> StoredFile:
        """A whole file. The same bytes again are the same file.

        Raises QuotaExceeded, UploadRefused for other bytes under the same ticket, the errors of the
        blob store and whatever `data` raises.
        """
        digest = hashlib.sha256()
        if is_weights(ticket.name):
            data = checked(ticket.name, data)
        piece = await self._store_piece(ticket, "whole", data, declared_bytes, digest)
        return await self._publish(ticket, [piece], digest.hexdigest())

    async def store_part(
        self, ticket: Ticket, number: int, data: AsyncIterable[bytes], declared_bytes: int | None
    ) -> str:
        """One part; its tag, which `complete` wants back. Raises as `store` does."""
        if not 1 <= number <= PARTS_MAX:
            raise UploadRefused(f"parts are numbered from 1 to {PARTS_MAX}, and this is {number}")
        if number == 1 and is_weights(ticket.name):
            data = checked(ticket.name, data, whole=False)
        piece = await self._store_piece(ticket, f"part{number:05d}", data, declared_bytes)
        return piece.key.rpartition("-")[2]

    async def complete(self, ticket: Ticket, parts: Sequence[tuple[int, str]]) -> StoredFile:
        """The file of these parts (number and tag, in any order). Raises UploadRefused."""
        prefix = folder_of(ticket.file_id)
        there = {blob.key: blob.size_bytes async for blob in self.blobs.under(prefix)}
        pieces: list[Piece] = []
        for number, tag in sorted(set(parts)):
            key = f"{prefix}part{number:05d}-{tag}"
            if key not in there:
                raise UploadRefused(f"part {number} with this etag was not uploaded; send it again")
            pieces.append(Piece(key, there[key]))
        if not pieces or len({number for number, _ in parts}) != len(pieces):
            raise UploadRefused("name each part once: `parts` holds numbers and the etags of all")
        if sum(piece.size_bytes for piece in pieces) > self.file_bytes_max:
            raise UploadRefused(f"the file is over {self.file_bytes_max} bytes")
        if is_weights(ticket.name):
            await self._check_weights(ticket.name, pieces)
        stored = await self._publish(ticket, pieces, "")
        await self.blobs.delete(_left_over(there, stored))
        return stored

    async def _check_weights(self, name: str, pieces: Sequence[Piece]) -> None:
        """The header again, which may lie in several parts, and the length of it all."""
        check = WeightsCheck(name)
        for piece in pieces:
            if check.looked:
                break
            async for data in self.blobs.read(piece.key, 0, piece.size_bytes):
                await check.take(data)
                if check.looked:
                    break
        check.end(sum(piece.size_bytes for piece in pieces))

    async def find(self, file_id: str) -> StoredFile:
        """Raises ArtifactNotFound, also for one that has expired but is not swept yet."""
        if not FILE_ID.fullmatch(file_id):
            raise no_such_file()
        try:
            stored = await self._record(file_id)
        except ArtifactNotFound as error:
            raise no_such_file() from error
        if stored.expires_seconds is not None and stored.expires_seconds <= self.now():
            raise no_such_file()
        return stored

    async def read(self, stored: StoredFile, span: ByteRange) -> AsyncIterator[bytes]:
        offset = 0
        for piece in stored.pieces:
            start, stop = max(span.start - offset, 0), min(span.stop - offset, piece.size_bytes)
            offset += piece.size_bytes
            if start < stop:
                async for data in self.blobs.read(piece.key, start, stop):
                    yield data

    async def write_note(self, stored: StoredFile, name: str, data: bytes) -> None:
        """Beside a file, for as long as it is there."""
        await self.blobs.write(folder_of(stored.file_id) + name, data)

    async def read_note(self, stored: StoredFile, name: str) -> bytes:
        """Raises ArtifactNotFound."""
        return await self.blobs.read_small(folder_of(stored.file_id) + name, RECORD_BYTES_MAX)

    async def with_note(self, tenant: str, name: str) -> list[StoredFile]:
        """A tenant's files that have this note."""
        slots = asyncio.Semaphore(_FOUND_AT_ONCE)

        async def found(file_id: str) -> StoredFile | None:
            async with slots:
                try:
                    return await self.find(file_id)
                except ArtifactNotFound:
                    return None  # It has expired.

        keys = [blob.key async for blob in self.blobs.under(f"uploads/{self._owner(tenant)}/")]
        parts = [key.split("/") for key in keys]
        ids = [owner + rest for _, owner, rest, *last in parts if last == [name]]
        return [each for each in await asyncio.gather(*map(found, ids)) if each is not None]

    async def delete(self, file_id: str) -> None:
        await self.blobs.delete_all(folder_of(file_id))

    # ---- within --------------------------------------------------------------------------------

    async def _record(self, file_id: str) -> StoredFile:
        key = record_key(file_id)
        return StoredFile.from_json(await self.blobs.read_small(key, RECORD_BYTES_MAX))

    async def _store_piece(
        self,
        ticket: Ticket,
        name: str,
        data: AsyncIterable[bytes],
        declared_bytes: int | None,
        digest: hashlib._Hash | None = None,
    ) -> Piece:
        usage = await self._usage_of(ticket.tenant)
        self._check(ticket.tenant, usage, declared_bytes or 0, declared_bytes or 0)
        await self.expiry.mark(KIND, ticket.file_id, self.now() + self.partial_seconds)
        size_bytes = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size_bytes
            async for piece in data:
                self._check(ticket.tenant, usage, size_bytes + len(piece), len(piece))
                size_bytes += len(piece)
                self._arriving[ticket.tenant] += len(piece)
                if digest is not None:
                    digest.update(piece)
                yield piece

        key = f"{folder_of(ticket.file_id)}{name}-{secrets.token_hex(16)}"
        try:
            await self.blobs.write(key, counted(), content_type=ticket.content_type)
        finally:
            self._arriving[ticket.tenant] -= size_bytes
            if not self._arriving[ticket.tenant]:
                del self._arriving[ticket.tenant]
        self._usage.get(ticket.tenant, usage).used_bytes += size_bytes
        return Piece(key, size_bytes)

    def _check(self, tenant: str, usage: _Usage, file_bytes: int, more_bytes: int) -> None:
        if file_bytes > self.file_bytes_max:
            raise QuotaExceeded(f"a file may have at most {self.file_bytes_max} bytes")
        # It may have been counted anew since the upload began.
        used_bytes = self._usage.get(tenant, usage).used_bytes + self._arriving[tenant]
        if used_bytes + more_bytes > self.tenant_bytes_max:
            raise QuotaExceeded(
                f"your files may have {self.tenant_bytes_max} bytes together, and "
                f"{used_bytes} are used; let some expire, or ask for more"
            )

    async def _publish(self, ticket: Ticket, pieces: list[Piece], sha256: str) -> StoredFile:
        stored = StoredFile(
            file_id=ticket.file_id,
            tenant=ticket.tenant,
            name=ticket.name,
            content_type=ticket.content_type,
            lifecycle=ticket.lifecycle,
            pieces=tuple(pieces),
            created_seconds=self.now(),
            sha256=sha256,
        )
        if stored.expires_seconds is not None:
            await self.expiry.mark(KIND, stored.file_id, stored.expires_seconds)
        key = record_key(ticket.file_id)
        if await self.blobs.create(key, stored.to_json()):
            return stored
        # Sent again by a client that missed our answer, most often.
        first = await self._record(ticket.file_id)
        same = first.sha256 == sha256 if sha256 else first.pieces == stored.pieces
        if not same:
            await self.blobs.delete([p.key for p in pieces if p not in first.pieces])
            raise UploadRefused("another file was uploaded here already; start a new upload")
        if sha256:
            await self.blobs.delete([piece.key for piece in pieces])
        return first

    async def _usage_of(self, tenant: str) -> _Usage:
        now = self.now()
        usage = self._usage.get(tenant)
        if usage is None or now - usage.counted_seconds > _USAGE_SECONDS:
            prefix = f"uploads/{self._owner(tenant)}/"
            used = sum([blob.size_bytes async for blob in self.blobs.under(prefix)])
            usage = _Usage(used, now)
            # Tenants that have been quiet for a while are counted when they come again.
            quiet = now - _USAGE_SECONDS
            self._usage = {t: u for t, u in self._usage.items() if u.counted_seconds >= quiet}
            self._usage[tenant] = usage
        return usage

    async def _judge(self, file_id: str, now: float) -> float | None:
        if not FILE_ID.fullmatch(file_id):
            return None
        try:
            stored = await self._record(file_id)
        except ArtifactNotFound:
            await self.delete(file_id)  # It was begun and never completed.
            return None
        if stored.expires_seconds is not None and stored.expires_seconds <= now:
            await self.delete(file_id)
        return None

    def _owner(self, tenant: str) -> str:
        message = b"quickthaw upload owner 1\n" + tenant.encode()
        return hmac.digest(self.secret, message, "sha256").hex()[:OWNER_CHARS]


def _left_over(there: Mapping[str, int], stored: StoredFile) -> list[str]:
    kept = {piece.key for piece in stored.pieces}
    return [key for key in there if key not in kept and not key.endswith("/file.json")]


def no_such_file() -> ArtifactNotFound:
    """Also for a file that is there and kept from who asks: the two must not differ."""
    return ArtifactNotFound("there is no such file; its link is incomplete or it has expired")
