"""Files that inputs of `run` name: uploaded to the gateway and brought where workers find them.

The command line calls over gRPC, and workers fetch nothing; so paths of this machine and URLs go
through the platform's gateway first.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, cast

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.pointing import Place, find_place
from quickthaw.client import JsonObject, JsonValue
from quickthaw.wire.errors import (
    InvalidInput,
    NotFound,
    PermissionDenied,
    QuickthawError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
BRING_SECONDS: Final = 900.0
"""For the gateway to fetch what the inputs name."""
_REMOTE: Final = ("http://", "https://")
_PATH_CHARACTERS_MAX: Final = 255
_LOCAL: Final = ("./", "../", "/", "~")

_ERRORS: Final[Mapping[int, type[QuickthawError]]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    413: ResourceExhausted,
    429: ResourceExhausted,
}
"""Statuses of the gateway that say nothing of the input; what else it refuses is the input."""


def bring(
    model: str, values: Mapping[str, JsonValue], schema: JsonObject, data_dir: Path | None
) -> Mapping[str, JsonValue]:
    """The inputs with each file where a worker finds it; the same if they name none.

    Raises UsageFault for a file that cannot be read or is named without its `./`, Unavailable
    without a gateway, InvalidInput in the gateway's words for a file that cannot be used.
    """
    names = [name for name in values if _may_name_files(name, schema)]
    for name in names:
        _refuse_bare(name, values[name])
    if not any(_names_a_file(values[name]) for name in names):
        return values
    place = find_place(data_dir)
    uploaded = {name: _uploaded(place, name, values[name]) for name in names}
    answer = _asked(
        place,
        f"/v1/inputs/{urllib.parse.quote(model)}",
        json.dumps({**values, **uploaded}).encode(),
        {"content-type": "application/json"},
    )
    brought = answer.get("input")
    if not isinstance(brought, dict):
        raise Unavailable(f"{place.url} did not answer as a gateway does")
    return cast("JsonObject", brought)


def _may_name_files(name: str, schema: JsonObject) -> bool:
    properties = schema.get("properties")
    known = isinstance(properties, Mapping) and name in properties
    return known and (name == "loras" or name.endswith(("_url", "_urls")))


def _paths(value: JsonValue) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence):
        found = [each.get("path") if isinstance(each, Mapping) else each for each in value]
        return [path for path in found if isinstance(path, str)]
    return []


def _names_a_file(value: JsonValue) -> bool:
    return any(path.startswith((*_REMOTE, *_LOCAL)) for path in _paths(value))


def _refuse_bare(name: str, value: JsonValue) -> None:
    """A bare name could be a model's id or a mistyped URL, so files are never guessed from one."""
    for path in _paths(value):
        bare = ":" not in path and not path.startswith(_LOCAL)
        if bare and len(path) <= _PATH_CHARACTERS_MAX and Path(path).is_file():
            raise UsageFault(f"{name}: {path!r} is no URL", f"for the file here write ./{path}")


def _uploaded(place: Place, name: str, value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _upload(place, name, value) if value.startswith(_LOCAL) else value
    if not isinstance(value, Sequence):
        return value
    return [
        {**each, "path": _uploaded(place, f"{name}[{index}].path", each.get("path"))}
        if isinstance(each, Mapping)
        else _uploaded(place, f"{name}[{index}]", each)
        for index, each in enumerate(value)
    ]


def _upload(place: Place, name: str, path: str) -> str:
    """The URL of the file at the gateway."""
    file = Path(path).expanduser()
    try:
        size, data = file.stat().st_size, file.open("rb")
    except OSError as error:
        raise UsageFault(f"{name}: the file {path!r} cannot be read: {error.strerror}") from error
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(size),
        "x-fal-file-name": urllib.parse.quote(file.name),
        # It is copied when it is brought; this one need not stay.
        "x-fal-object-lifecycle": json.dumps({"expiration_duration_seconds": 3600}),
    }
    with data:
        answer = _asked(place, "/cdn/files/upload", data, headers)
    url = answer.get("access_url")
    if not isinstance(url, str):
        raise Unavailable(f"{place.url} did not answer as a gateway does")
    return url


def _asked(
    place: Place, path: str, body: bytes | BinaryIO, headers: Mapping[str, str]
) -> JsonObject:
    request = urllib.request.Request(
        f"{place.url}{path}",
        data=body,
        headers={**headers, "authorization": f"Key {place.key}"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=BRING_SECONDS) as answer:
            found: object = json.loads(answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        kind = _ERRORS.get(error.code, Unavailable if error.code >= 500 else InvalidInput)
        raise kind(_told(error.read(ANSWER_BYTES_MAX), error.code)) from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Unavailable(f"{place.url} does not answer: {error}") from error
    return cast("JsonObject", found) if isinstance(found, dict) else {}


def _told(text: bytes, status: int) -> str:
    """What a gateway's error says, in one line."""
    try:
        detail: object = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {status}"
    if isinstance(detail, str):
        return detail
    items = cast("list[dict[str, object]]", detail) if isinstance(detail, list) else []
    return "; ".join(map(_located, items)) or f"the gateway answered {status}"


def _located(item: Mapping[str, object]) -> str:
    """The message after the input that it is about: `["body", "loras", 0]` is loras[0]."""
    where = item.get("loc")
    names = cast("list[object]", where)[1:] if isinstance(where, list) else []
    told = str(item.get("msg"))
    name = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in names)[1:]
    return told if not name or told.startswith(f"{name}:") else f"{name}: {told}"
