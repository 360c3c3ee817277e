"""The blob store: a folder or a bucket that gateways, workers and schedulers are given alike."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import secrets
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from quickthaw.wire.errors import SettingsInvalid

if TYPE_CHECKING:
    from obstore.store import RetryConfig

logger = logging.getLogger(__name__)

FULL_TEXTS: Final = tuple(
    f"(os error {code})" for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
)
"""By which a full folder is known: the library tells the operating system's text, no number."""
CHECK_SECONDS: Final = 20.0
"""A store that takes longer is slow, and slow is not wrong."""
_PROBES: Final = "probes"
MARK: Final = "probes/store-id"
"""The file by which a store is known to be the same one: whoever comes first makes it."""
MARK_BYTES_MAX: Final = 64
_CONTENT: Final = b"quickthaw"
_RETRY_MAX: Final = 2
_RETRY_SECONDS: Final = 5
_FOR_NOW: Final = re.compile(r"status code: 5\d\d|" + "|".join(map(re.escape, FULL_TEXTS)))
"""What a store says that is set up well and has a bad hour."""
_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_HELP: Final = {
    "": "give a folder that this process may write to",
    "file": "give a folder that this process may write to",
    "s3": "make the bucket, or mend its name, AWS_REGION, AWS_ENDPOINT (and AWS_ALLOW_HTTP=true if "
    "that is http) or the credentials",
    "gs": "make the bucket, or mend its name or GOOGLE_SERVICE_ACCOUNT",
    "az": "make the container, or mend its name, AZURE_STORAGE_ACCOUNT_NAME or the credentials",
}


def open_blob_store(url: str) -> ObjectStore:
    """A folder (made if missing), `file://` URL or object-store URL. Raises SettingsInvalid."""
    scheme = urlsplit(url).scheme
    try:
        if scheme in ("", "file"):
            return _folder(url)
        return from_url(url)
    except (OSError, ValueError, BaseError) as error:
        raise SettingsInvalid(
            f"--blob-store {url!r} cannot be opened: {error}; give a folder, a file:// URL or an "
            "object-store URL such as s3://bucket/prefix"
        ) from error


def _folder(url: str) -> LocalStore:
    path = unquote(urlsplit(url).path) if urlsplit(url).scheme else url
    folder = Path(path).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return LocalStore(folder, automatic_cleanup=True)


async def check_blob_store(url: str) -> str:
    """Writes, reads and deletes a small file under `probes/`, as a process does before it says that
    it is ready. Returns the store's mark: equal for two processes that were given one store.

    Raises SettingsInvalid for a store that does not work as it is set up. One that is slow, full or
    failing for the moment gets a warning, and an empty mark: a process that would not start again
    beside it made things worse.
    """
    scheme = urlsplit(url).scheme
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await asyncio.to_thread(_round_trip, url, f"{_PROBES}/{secrets.token_hex(8)}")
    except TimeoutError:
        logger.warning("the blob store %s took no file in %g s: it is slow", url, CHECK_SECONDS)
        return ""
    except (BaseError, OSError, ValueError) as error:
        # The first line is for people, the rest the library's own debugging text.
        text, code = str(error).partition("\n")[0], _CODE.search(str(error))
        if code is not None and code[1] not in text:
            text = f"{text} ({code[1]})"
        if _FOR_NOW.search(text):
            logger.warning("the blob store %s does not work for now: %s", url, text)
            return ""
        raise SettingsInvalid(
            f"--blob-store {url!r} cannot be written, read and deleted in: {text}; "
            + _HELP.get(scheme, "mend the URL or the credentials")
        ) from error


def _round_trip(url: str, key: str) -> str:
    """The store's mark. With fewer tries than later: what is set up wrongly should be told at once.

    In a thread of ours: the library's own may still be at the end of an awaited call when what is
    set up wrongly ends this process, which Python then aborts.
    """
    if urlsplit(url).scheme in ("", "file"):
        store: ObjectStore = _folder(url)
    else:
        retrying: RetryConfig = {
            "max_retries": _RETRY_MAX,
            "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
        }
        store = from_url(url, retry_config=retrying)
    obstore.put(store, key, _CONTENT)
    if bytes(obstore.get(store, key).bytes()) != _CONTENT:
        raise OSError("it gives another file than it was given")
    obstore.delete(store, key)
    return _mark(store)


def _mark(store: ObjectStore) -> str:
    """Made if missing; of two that come first at once, one is refused. Empty where it cannot be
    had, as on a server that knows no such condition: such a store does all that it must."""
    try:
        with contextlib.suppress(AlreadyExistsError):
            obstore.put(store, MARK, secrets.token_hex(16).encode(), mode="create")
        found = obstore.get_range(store, MARK, start=0, length=MARK_BYTES_MAX)
        return bytes(found).decode("ascii")
    except (BaseError, OSError, ValueError) as error:
        logger.info("the blob store keeps no mark: %s", str(error).partition("\n")[0])
        return ""
