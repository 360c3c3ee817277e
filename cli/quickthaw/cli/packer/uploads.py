"""Uploaded files, brought from the gateway's blob store to this machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from quickthaw.client import DeploymentFile
from quickthaw.wire.errors import (
    InvalidArgument,
    StorageFull,
    Unavailable,
)
from quickthaw.wire.uploads import FILE_ID, RECORD_BYTES_MAX, UploadRecord, preview_key, record_key

logger = logging.getLogger(__name__)

READ_BYTES = 8 * 1024 * 1024
ROOM_BYTES = 1 << 30
"""What must stay free on the disk beside the files."""


async def find(store: ObjectStore, tenant: str, file: DeploymentFile) -> UploadRecord:
    """Raises InvalidArgument for a file that is not the tenant's, not there, or not as it was."""
    gone = InvalidArgument(
        f"{file.path}: there is no upload {file.file_id[:64]!r} of yours; it may have expired: "
        "upload it again"
    )
    if not FILE_ID.fullmatch(file.file_id):
        raise gone
    try:
        with _our_errors():
            found = await obstore.get_async(store, record_key(file.file_id))
            if found.meta["size"] > RECORD_BYTES_MAX:
                raise gone
            record = UploadRecord.from_json(bytes(await found.bytes_async()))
    except FileNotFoundError as error:
        raise gone from error
    expired = record.expires_seconds is not None and record.expires_seconds <= time.time()
    if record.tenant != tenant or expired:
        raise gone
    if record.size_bytes != file.size_bytes:
        raise InvalidArgument(
            f"{file.path}: the upload has {record.size_bytes} bytes, not {file.size_bytes}"
        )
    return record


async def fetch(
    store: ObjectStore, record: UploadRecord, path: Path, on_bytes: Callable[[int], None]
) -> str:
    """The whole file at `path`; its SHA-256. Raises StorageFull, Unavailable, and InvalidArgument
    for a file that went while it was read."""
    whole = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < record.size_bytes + ROOM_BYTES:
            raise StorageFull(
                f"there is no room for {record.size_bytes} bytes in the packer's --work-dir; free "
                "space there"
            )
        with path.open("wb") as file:
            for piece in record.pieces:
                with _our_errors():
                    found = await obstore.get_async(store, piece.key)
                    async for data in found.stream(min_chunk_size=READ_BYTES):
                        file.write(data)
                        whole.update(data)
                        on_bytes(len(data))
            size_bytes = file.tell()
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"{path.name}: the upload went while it was read; upload it again"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk of the packer's --work-dir is full") from error
        raise
    if size_bytes != record.size_bytes:
        raise Unavailable(
            f"{path.name}: the blob store gave {size_bytes} of {record.size_bytes} bytes",
            retry_delay_seconds=2.0,
        )
    return whole.hexdigest()


async def keep_preview(store: ObjectStore, request_id: str, picture: bytes) -> None:
    """Beside what the request made, for as long as that is kept. Not having it is no failure."""
    try:
        await obstore.put_async(store, preview_key(request_id), picture)
    except (BaseError, OSError) as error:
        logger.warning("the preview of %s could not be kept: %s", request_id, error)


@contextlib.contextmanager
def _our_errors() -> Iterator[None]:
    """FileNotFoundError stays what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except BaseError as error:
        text = str(error).partition("\n")[0]  # the rest is the library's own debugging text
        raise Unavailable(
            f"the blob store does not work: {text}", retry_delay_seconds=2.0
        ) from error
