"""The blob store as the gateway uses it: a folder or a bucket, the same one that workers write to.

Keys are made by us, never from what a caller sent. Errors are the platform's: StorageFull,
Unavailable, ArtifactNotFound.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore

from quickthaw.wire.blob_store import FULL_TEXTS, open_blob_store
from quickthaw.wire.errors import (
    ArtifactNotFound,
    Internal,
    StorageFull,
    Unavailable,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta

READ_BYTES = 256 * 1024
WRITE_BYTES = 5 * 1024 * 1024
"""What one writer holds at most before it writes; buckets take no smaller parts."""
_DELETED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Blob:
    key: str
    size_bytes: int
    modified_seconds: float
    """Since 1970, by the store's clock."""


def open_blobs(url: str) -> Blobs:
    """As `open_blob_store`."""
    return Blobs(open_blob_store(url))


class Blobs:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def write(
        self, key: str, data: bytes | AsyncIterable[bytes], *, content_type: str = ""
    ) -> None:
        """Whole or not at all; if `data` raises, that comes out here and nothing stays behind."""
        local = isinstance(self._store, LocalStore)
        attributes = {"Content-Type": content_type} if content_type and not local else None
        with _our_errors(key, writing=True):
            await obstore.put_async(
                self._store,
                key,
                data,
                attributes=attributes,
                chunk_size=WRITE_BYTES,
                max_concurrency=1,
            )

    async def create(self, key: str, data: bytes) -> bool:
        """Writes a small blob unless there is one with this key; whether it did."""
        try:
            with _our_errors(key, writing=True):
                await obstore.put_async(self._store, key, data, mode="create")
        except _Exists:
            return False
        return True

    async def read_small(self, key: str, bytes_max: int) -> bytes:
        """Raises ArtifactNotFound, and Internal for a blob that is larger than any of its kind."""
        with _our_errors(key):
            found = await obstore.get_async(self._store, key)
            if found.meta["size"] > bytes_max:
                raise Internal(f"{key} has {found.meta['size']} bytes: none of ours has so many")
            return bytes(await found.bytes_async())

    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes from `start` to before `stop`, which must lie in the blob, in pieces."""
        if start >= stop:
            return
        with _our_errors(key):
            found = await obstore.get_async(self._store, key, options={"range": (start, stop)})
            async for piece in found.stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    async def size(self, key: str) -> int | None:
        """None if it is not there."""
        found = await self._meta(key)
        return None if found is None else found["size"]

    async def modified_seconds(self, key: str) -> float | None:
        """Since 1970, by the store's clock; None if it is not there."""
        found = await self._meta(key)
        return None if found is None else found["last_modified"].timestamp()

    async def _meta(self, key: str) -> ObjectMeta | None:
        try:
            with _our_errors(key):
                return await obstore.head_async(self._store, key)
        except ArtifactNotFound:
            return None

    async def move(self, source: str, target: str) -> None:
        """Also over another one. Raises ArtifactNotFound."""
        with _our_errors(source):
            await obstore.rename_async(self._store, source, target)

    async def under(self, prefix: str) -> AsyncIterator[Blob]:
        with _our_errors(prefix):
            async for batch in obstore.list(self._store, prefix):
                for meta in batch:
                    modified = meta["last_modified"].timestamp()
                    yield Blob(meta["path"], meta["size"], modified)

    async def folders(self, prefix: str) -> list[str]:
        """The next segments below a prefix, sorted."""
        with _our_errors(prefix):
            found = await obstore.list_with_delimiter_async(self._store, prefix)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    async def delete(self, keys: Sequence[str]) -> None:
        """Those that are there."""
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            with _our_errors(keys[start]), contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._store, keys[start : start + _DELETED_AT_ONCE])

    async def delete_all(self, prefix: str) -> None:
        await self.delete([blob.key async for blob in self.under(prefix)])


class _Exists(Exception):
    pass


@contextlib.contextmanager
def _our_errors(key: str, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except AlreadyExistsError as error:
        raise _Exists from error
    except FileNotFoundError as error:
        if writing:
            raise Unavailable(
                "the blob store takes no files: its bucket or folder is gone",
                retry_delay_seconds=2.0,
            ) from error
        raise ArtifactNotFound("there is no such file (any more)") from error
    except BaseError as error:
        text = str(error).partition("\n")[0]  # the rest is the library's own debugging text
        if any(full in text for full in FULL_TEXTS):
            raise StorageFull("the blob store is full; free space there, then try again") from error
        raise Unavailable(
            f"the blob store does not work for {key.partition('/')[0]}: {text}",
            retry_delay_seconds=2.0,
        ) from error
