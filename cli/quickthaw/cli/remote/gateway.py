"""A gateway as an HTTP client sees it: calls that are tried again, errors that are ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpcore

from quickthaw.client.settings import RunFile, default_data_dir, read_key_file
from quickthaw.snapshot.remote import RemoteSettings
from quickthaw.snapshot.remote.retrying import Transient, Tries
from quickthaw.wire.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    QuickthawError,
    ResourceExhausted,
    SettingsInvalid,
    Unauthenticated,
    Unavailable,
)

ANSWER_BYTES_MAX = 4 << 20
SECONDS_MAX = 120.0
CONNECT_SECONDS = 10.0
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same call may succeed."""
_NETWORK = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
_ERRORS: Mapping[int, type[QuickthawError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    413: ResourceExhausted,
    429: ResourceExhausted,
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Unavailable(
                "the answer is not JSON: is that the URL of a Quickthaw gateway?"
            ) from error


class RemoteGateway:
    """Calls below `url` with `key`; safe to be used by several threads."""

    def __init__(self, url: str, key: str, settings: RemoteSettings | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SettingsInvalid(f"--remote {url!r}: give a gateway's URL, http://HOST:PORT")
        self.url = url.rstrip("/")
        self._headers = {"authorization": f"Key {key}", "host": parts.netloc}
        self._settings = settings or RemoteSettings()
        self._pool = httpcore.ConnectionPool(max_connections=16)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.close()

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = True,
    ) -> Answer:
        """The answer, whatever its status, unless that says to try again, which is done if the call
        is `repeatable`. Raises StoreUnavailable when that has not helped, or ours for what was not
        repeated."""
        content = json.dumps(body).encode() if isinstance(body, Mapping) else body
        kind = {"content-type": "application/json"} if isinstance(body, Mapping) else {}
        tries = Tries(self._settings, f"{method} {self.url}{path.partition('?')[0]}")
        while True:
            try:
                answer = self._once(method, path, content, {**kind, **(headers or {})})
                if answer.status not in PASSING or not repeatable:
                    return answer
                raise _transient(answer)
            except _NETWORK as error:
                failed = Transient(f"{type(error).__name__}: {error}")
                if not repeatable:
                    raise Unavailable(f"{self.url}: {failed}") from error
            except Transient as passing:
                failed = passing
            tries.failed(failed)

    def _once(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        with self._opened(method, path, content, headers) as response:
            body = b""
            for piece in response.iter_stream():
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    raise Unavailable(f"{self.url}{path}: over {ANSWER_BYTES_MAX} bytes")
            return Answer(response.status, _named(response), body)

    def save(self, path: str, target: Path) -> None:
        """A file as it is, in pieces. Raises as `check`."""
        with self._opened("GET", path, None, {}) as response:
            if response.status != 200:
                check(Answer(response.status, _named(response), response.read()))
            with target.open("wb") as file:
                for piece in response.iter_stream():
                    file.write(piece)

    @contextmanager
    def _opened(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Iterator[httpcore.Response]:
        seconds = dict.fromkeys(("read", "write"), SECONDS_MAX) | {"connect": CONNECT_SECONDS}
        with self._pool.stream(
            method,
            f"{self.url}{path}",
            headers=[*{**self._headers, **headers}.items()],
            content=content if content is not None or method == "GET" else b"",
            extensions={"timeout": seconds},
        ) as response:
            yield response


def check(answer: Answer) -> Answer:
    """The answer, if it is a success. Raises the error that its status is, in its own words."""
    if answer.status < 400:
        return answer
    raise _ERRORS.get(answer.status, InvalidArgument if answer.status < 500 else Unavailable)(
        _detail(answer)
    )


def _detail(answer: Answer) -> str:
    try:
        detail = answer.json()["detail"]
    except (QuickthawError, KeyError, TypeError):
        return f"the gateway answered {answer.status}"
    if not isinstance(detail, list):
        return str(detail)
    said: list[str] = []
    for each in detail:
        where = ".".join(str(part) for part in each.get("loc", ())[1:])
        said.append(f"{where}: {each.get('msg', '')}" if where else str(each.get("msg", "")))
    return "; ".join(said)


def find_key(url: str, data_dir: Path | None, environ: Mapping[str, str] = os.environ) -> str:
    """QUICKTHAW_KEY, or that of the platform on this machine if `url` is its own. Raises
    SettingsInvalid."""
    if key := environ.get("QUICKTHAW_KEY"):
        return key
    run_file = RunFile.read(data_dir or default_data_dir(environ))
    if run_file is not None and run_file.http.rstrip("/") == url.rstrip("/"):
        return read_key_file(run_file.key_file)
    raise SettingsInvalid(f"no key for {url}: set QUICKTHAW_KEY to one with the scope deploy")


def _named(response: httpcore.Response) -> dict[str, str]:
    return {name.decode().lower(): value.decode("latin-1") for name, value in response.headers}


def _transient(answer: Answer) -> Transient:
    try:
        delay = float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        delay = None
    return Transient(_detail(answer), delay)
