"""Outputs to the blob store: `artifacts/<request id>/<name>`, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import obstore
from obstore.store import LocalStore, ObjectStore

from quickthaw.wire.blob_store import FULL_TEXTS
from quickthaw.wire.errors import InvalidArgument, StorageFull, StoreUnavailable
from quickthaw.worker.attempts import OutputFile, StoredArtifact

ARTIFACT_PREFIX = "artifacts"
READ_BYTES = 1 << 20
HASHED_AT_ONCE_BYTES_MAX = 1024 * 1024
"""More than this is hashed in a thread: the event loop has a lease to keep."""


def described(request_id: str, files: Sequence[OutputFile]) -> tuple[StoredArtifact, ...]:
    """As they are once they are stored."""
    return tuple(
        StoredArtifact(
            uri=_key(request_id, file),
            name=file.name,
            content_type=file.content_type,
            size_bytes=len(file.data),
            sha256=hashlib.sha256(file.data).hexdigest(),
            width=file.width,
            height=file.height,
            duration_ms=file.duration_ms,
        )
        for file in files
    )


class ArtifactStore:
    """`name` is how errors call the store: its folder or URL. Uploads never exceed `uploads_max`
    at once, whatever the number of files. The outputs of `behind_max` requests at most may be
    stored after their end was told, each within `behind_seconds`."""

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        uploads_max: int = 4,
        behind_max: int = 16,
        behind_seconds: float = 60.0,
    ) -> None:
        self._store = store
        self._name = name
        self._slots = asyncio.Semaphore(uploads_max)
        self.behind_max = behind_max
        self.behind_seconds = behind_seconds

    async def put_all(
        self, request_id: str, files: Sequence[OutputFile]
    ) -> tuple[StoredArtifact, ...]:
        """Stores the outputs of one request; none stay behind if one fails.

        A second attempt of the same request replaces the first one's files. Raises StorageFull or
        StoreUnavailable.
        """
        done = await asyncio.gather(
            *(self._put(_key(request_id, file), file) for file in files), return_exceptions=True
        )
        failed = [result for result in done if isinstance(result, BaseException)]
        if failed:
            await self._remove([result for result in done if isinstance(result, str)])
            raise failed[0]
        if sum(len(file.data) for file in files) > HASHED_AT_ONCE_BYTES_MAX:
            return await asyncio.to_thread(described, request_id, files)
        return described(request_id, files)

    async def put_behind(self, request_id: str, files: Sequence[OutputFile]) -> None:
        """As `put_all`, for files of which was told already. Raises the same."""
        try:
            async with asyncio.timeout(self.behind_seconds):
                await self.put_all(request_id, files)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"the blob store {self._name} took no files within {self.behind_seconds:g} s",
                metadata={"store": self._name},
            ) from error

    def read_input(self, key: str) -> bytes:
        """A picture that a request brought; blocks. Raises FileNotFoundError, StoreUnavailable."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            raise
        except obstore.exceptions.BaseError as error:
            raise self._not_given(error) from error

    def read_input_to(self, key: str, path: Path, bytes_max: int) -> str:
        """A larger file that a request brought, into `path`; its SHA-256. Blocks.

        Raises FileNotFoundError, StoreUnavailable, and InvalidArgument for one over `bytes_max`.
        """
        digest = hashlib.sha256()
        try:
            found = obstore.get(self._store, key)
            if found.meta["size"] > bytes_max:
                raise InvalidArgument(
                    f"it has {found.meta['size']} bytes, and this worker takes {bytes_max}"
                )
            with path.open("wb") as file:
                for piece in found.stream(min_chunk_size=READ_BYTES):
                    digest.update(piece)
                    file.write(piece)
        except FileNotFoundError:
            raise
        except obstore.exceptions.BaseError as error:
            raise self._not_given(error) from error
        return digest.hexdigest()

    def _not_given(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"the blob store {self._name} did not give an input: {str(error)[:200]}",
            metadata={"store": self._name},
        )

    async def _put(self, key: str, file: OutputFile) -> str:
        try:
            async with self._slots:
                # A put is atomic: object stores make it so, and the local store writes a staging
                # file, which it renames when complete and removes when not.
                await obstore.put_async(
                    self._store,
                    key,
                    file.data,
                    attributes=None
                    if isinstance(self._store, LocalStore)
                    else {"Content-Type": file.content_type},
                )
        except obstore.exceptions.BaseError as error:
            raise self._named(error, file) from error
        return key

    def _named(self, error: Exception, file: OutputFile) -> StorageFull | StoreUnavailable:
        text = str(error).partition("\n")[0]  # the rest is the library's own debugging text
        if any(full in text for full in FULL_TEXTS):
            return StorageFull(
                f"the blob store {self._name} is full: {file.name} ({len(file.data)} bytes) could "
                "not be stored; free space there, then send the request again",
                metadata={"store": self._name},
            )
        return StoreUnavailable(
            f"the blob store {self._name} did not take {file.name}: {text}",
            metadata={"store": self._name},
        )

    async def _remove(self, keys: list[str]) -> None:
        if keys:
            with contextlib.suppress(obstore.exceptions.BaseError):
                await obstore.delete_async(self._store, keys)


def _key(request_id: str, file: OutputFile) -> str:
    return f"{ARTIFACT_PREFIX}/{request_id}/{file.name}"
