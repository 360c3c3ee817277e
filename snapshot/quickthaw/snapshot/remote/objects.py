"""Object stores (S3 and what speaks like it, Google's, Azure's) and folders, through obstore."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, from_url

from quickthaw.snapshot.files import FULL_TEXTS
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.remote.base import RemoteSettings
from quickthaw.snapshot.remote.retrying import Transient, Tries
from quickthaw.wire.errors import (
    NotFound,
    PermissionDenied,
    QuickthawError,
    SettingsInvalid,
    StorageFull,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "file")
_PIECE_BYTES = 1024 * 1024
# Only these words of a server's answer are repeated: bodies can quote keys and signatures.
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = frozenset({"NoSuchBucket", "NoSuchContainer", "ContainerNotFound"})
_DENIED = frozenset(
    {
        "AccessDenied",
        "AuthenticationFailed",
        "AuthorizationFailure",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
    }
)


class ObjectRemote:
    """`url`: `s3://bucket/prefix`, `gs://`, `az://`, or a folder as `file://` or a path.

    Credentials are the library's business; nothing of them is in the URL, an error or a log.
    """

    kind = "remote"

    def __init__(self, url: str, settings: RemoteSettings, *, writing: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme and "@" in parts.netloc and not parts.scheme.startswith("abfs"):
            raise SettingsInvalid(
                f"{parts.scheme}://.../{parts.path.lstrip('/')}: credentials do not belong into a "
                "URL, where every log repeats them; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment"
            )
        self.name = url.rstrip("/")
        self._settings = settings
        self._store = self._open(url, parts.scheme, writing)

    def __repr__(self) -> str:
        return f"ObjectRemote({self.name!r})"

    def close(self) -> None:
        """The library keeps its own connections."""

    def _open(self, url: str, scheme: str, writing: bool) -> ObjectStore:
        try:
            if scheme in ("", "file"):
                folder = Path(unquote(urlsplit(url).path) if scheme else url).absolute()
                if not writing and not folder.is_dir():
                    raise NotFound(
                        f"{folder} is no folder on this machine; what several machines read must "
                        "lie where all of them reach it, such as in a bucket"
                    )
                return LocalStore(folder, mkdir=writing)
            config: dict[str, Any] = {}
            if scheme in ("s3", "s3a"):
                if self._settings.endpoint:
                    config["endpoint"] = self._settings.endpoint
                if self._settings.region:
                    config["region"] = self._settings.region
            return from_url(
                url,
                config=config or None,  # type: ignore[arg-type]  # a TypedDict of the store's kind
                client_options=_client_config(self._settings),
                retry_config=_retry_config(self._settings),
            )
        except (OSError, ValueError, BaseError) as error:
            raise SettingsInvalid(
                f"{self.name} cannot be opened ({_first_line(error)}); give a URL such as "
                "s3://bucket/prefix, https://host/folder or file:///folder"
            ) from error

    # ---- reading -------------------------------------------------------------------------------

    def read_small(self, path: str, bytes_max: int) -> bytes:
        with self._named(path):
            result = obstore.get(self._store, path)
            if result.meta["size"] > bytes_max:
                invalid(
                    Problem.MANIFEST,
                    f"{self.name}/{path}",
                    f"larger than the limit of {bytes_max} bytes",
                )
            return bytes(result.bytes())

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        tries = Tries(self._settings, self.name)
        done = 0
        while done < target.nbytes:
            try:
                with self._named(path):
                    span = (start + done, start + target.nbytes)
                    result = obstore.get(self._store, path, options={"range": span})
                    # A smaller chunk than the range, so that no second copy of it is made.
                    for piece in result.stream(min_chunk_size=_PIECE_BYTES):
                        count = min(len(piece), target.nbytes - done)
                        target[done : done + count] = memoryview(piece)[:count]
                        done += count
                    if result.meta["size"] <= start + done:
                        return done
            except _PastTheEnd:
                return done
            except StoreUnavailable as error:
                # The library has tried again to get an answer, but not to get the rest of one.
                tries.failed(Transient(error.message))
        return done

    def size(self, path: str) -> int | None:
        """None if there is no such object."""
        try:
            with self._named(path):
                return obstore.head(self._store, path)["size"]
        except NotFound as error:
            if error.metadata.get("missing") == "bucket":
                raise
            return None

    def folders(self, path: str) -> list[str]:
        """Names of what lies under `path`, one level down, sorted."""
        with self._named(path):
            listed = obstore.list_with_delimiter(self._store, path)
            return sorted(each.rstrip("/").rpartition("/")[2] for each in listed["common_prefixes"])

    # ---- writing -------------------------------------------------------------------------------

    def write(self, path: str, pieces: Iterator[memoryview]) -> None:
        """Puts an object, whole or not at all; what `pieces` raises is raised, and nothing put."""
        with self._named(path):
            obstore.put(
                self._store,
                path,
                pieces,
                chunk_size=self._settings.range_bytes,
                max_concurrency=self._settings.parallel,
            )

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """The library's errors as ours."""
        try:
            yield
        except QuickthawError:
            raise
        except (BaseError, OSError) as error:
            raise self._translated(error, path) from None  # its text and cause may quote keys

    def _translated(self, error: Exception, path: str) -> Exception:
        text = str(error)
        code = found[1] if (found := _CODE.search(text)) else ""
        status = found[1] if (found := _STATUS.search(text)) else ""
        where, metadata = f"{self.name}/{path}", {"remote": self.name}
        if code == "InvalidRange" or status == "416":
            return _PastTheEnd()
        if code in _NO_BUCKET:
            return NotFound(
                f"{self.name}: there is no such bucket; check its name and the endpoint",
                metadata=metadata | {"missing": "bucket"},
            )
        refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError))
        if refused or code in _DENIED or status in ("401", "403"):
            said = code or (f"HTTP {status}" if status else type(error).__name__)
            return PermissionDenied(
                f"{where}: access denied ({said}); check the credentials in the environment "
                "(AWS_ACCESS_KEY_ID and its relatives) and what they may do there",
                metadata=metadata,
            )
        if isinstance(error, FileNotFoundError):
            return NotFound(f"{where} does not exist", metadata=metadata)
        if any(full in text for full in FULL_TEXTS):
            return StorageFull(
                f"{where}: no space left while writing; free some there and repeat",
                metadata=metadata,
            )
        return StoreUnavailable(
            f"{where}: the object store cannot be reached or fails ({_why(text, code, status)})",
            metadata=metadata,
        )


class _PastTheEnd(Exception):
    """Nothing there from the asked byte on."""


def _why(text: str, code: str, status: str) -> str:
    if code or status:
        return " ".join(part for part in (f"HTTP {status}" if status else "", code) if part)
    lowered = text.lower()
    for sign, meaning in (
        ("timed out", "no answer in time"),
        ("timedout", "no answer in time"),
        ("dns", "the host's name is unknown"),
        ("connect", "no connection"),
        ("body", "the connection was cut"),
    ):
        if sign in lowered:
            return meaning
    return "the network failed"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _client_config(settings: RemoteSettings) -> ClientConfig:
    return {
        "connect_timeout": timedelta(seconds=settings.connect_seconds),
        "read_timeout": timedelta(seconds=settings.read_seconds),
        "timeout": timedelta(seconds=settings.request_seconds),
        "pool_max_idle_per_host": str(settings.parallel),
        "allow_http": (settings.endpoint or "").startswith("http://"),
    }


def _retry_config(settings: RemoteSettings) -> RetryConfig:
    return {
        "max_retries": settings.retries,
        "retry_timeout": timedelta(seconds=settings.retry_seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=settings.backoff_seconds),
            "max_backoff": timedelta(seconds=settings.backoff_cap_seconds),
            "base": 2,
        },
    }
