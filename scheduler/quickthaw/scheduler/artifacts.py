"""Reads artifacts from the blob store that the workers write to."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from quickthaw.v1 import types_pb2
from quickthaw.wire import errors, limits
from quickthaw.wire.blob_store import MARK, MARK_BYTES_MAX

if TYPE_CHECKING:
    from obstore import GetResult

logger = logging.getLogger(__name__)

STORED_AFTER_SECONDS_MAX = 2.0
"""How long after its request's end a file may be missing that will yet come."""
LOOK_AGAIN_SECONDS = 0.05
MARK_SECONDS_MAX = 5.0
"""For reading which store this is, while a worker waits for its Welcome."""


def request_id_of(uri: str) -> str:
    """Of `artifacts/<request id>/<name>`. Raises ArtifactNotFound for anything else."""
    parts = uri.split("/")
    if len(parts) != 3 or parts[0] != "artifacts" or not parts[1] or not parts[2]:
        raise not_found(uri)
    return parts[1]


def not_found(uri: str) -> errors.ArtifactNotFound:
    return errors.ArtifactNotFound(
        f"there is no artifact {uri[:300]!r}; a finished request's `artifacts` name theirs"
    )


def artifact_of(request: types_pb2.Request, uri: str) -> types_pb2.Artifact:
    """The artifact as the request's record has it. Raises ArtifactNotFound."""
    for artifact in request.artifacts:
        if artifact.uri == uri:
            return artifact
    raise not_found(uri)


class Artifacts:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._mark = ""

    async def is_marked(self, mark: str) -> bool:
        """Whether this is the blob store that a worker knows by `mark`; also if the store does not
        tell for now."""
        if mark == self._mark:
            return True
        # Read again whenever it differs: somebody may have deleted the file, and a later worker
        # made another.
        try:
            async with asyncio.timeout(MARK_SECONDS_MAX):
                found = await obstore.get_range_async(
                    self._store, MARK, start=0, length=MARK_BYTES_MAX
                )
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            logger.warning("whether a worker has this blob store is not known: %s", error)
            return True
        self._mark = bytes(found).decode("ascii", "replace")
        return mark == self._mark

    async def delete_all(self, request_id: str) -> None:
        """All that the request's attempts left, also those that were lost. Raises Unavailable."""
        try:
            async for batch in obstore.list(self._store, f"artifacts/{request_id}/"):
                await obstore.delete_async(self._store, [found["path"] for found in batch])
        except FileNotFoundError:
            pass  # Somebody else was first.
        except (BaseError, OSError) as error:
            raise errors.Unavailable(
                f"the blob store does not delete the files of {request_id}: {error}",
                retry_delay_seconds=2.0,
            ) from error

    async def read(
        self, artifact: types_pb2.Artifact, patience_seconds: float = 0.0
    ) -> AsyncIterator[bytes]:
        """The bytes in chunks of at most `ARTIFACT_CHUNK_BYTES`. A file that is not there yet is
        waited for so long: what a session was sent is stored after its end.

        The digest can only be known at the end: raises ArtifactCorrupt then, and the reader must
        throw away what it has. Raises ArtifactNotFound, Unavailable.
        """
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            found = await self._get(artifact.uri, patience_seconds)
            async for chunk in found.stream(min_chunk_size=limits.ARTIFACT_CHUNK_BYTES):
                piece = memoryview(bytes(chunk))
                digest.update(piece)
                size_bytes += len(piece)
                for start in range(0, len(piece), limits.ARTIFACT_CHUNK_BYTES):
                    yield bytes(piece[start : start + limits.ARTIFACT_CHUNK_BYTES])
        except FileNotFoundError as error:
            raise errors.ArtifactNotFound(
                f"the blob store has no {artifact.uri}; it was deleted after the request"
            ) from error
        except (BaseError, OSError) as error:
            raise errors.Unavailable(
                f"the blob store does not give {artifact.uri}: {error}", retry_delay_seconds=2.0
            ) from error
        if digest.hexdigest() != artifact.sha256 or size_bytes != artifact.size_bytes:
            raise errors.ArtifactCorrupt(
                f"{artifact.uri} has {size_bytes} bytes that do not match the digest in the "
                "request's record; the blob store damaged it, so run the request again"
            )

    async def _get(self, uri: str, patience_seconds: float) -> GetResult:
        """Raises FileNotFoundError and what else the store raises."""
        give_up = time.monotonic() + patience_seconds
        while True:
            try:
                return await obstore.get_async(self._store, uri)
            except FileNotFoundError:
                if time.monotonic() + LOOK_AGAIN_SECONDS > give_up:
                    raise
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
