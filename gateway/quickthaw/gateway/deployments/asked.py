"""`POST /v1/deployments` as the scheduler wants it: fields read, files found."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import unquote, urlsplit

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.storage import StoredFile, UploadRefused, Uploads
from quickthaw.gateway.storage.weights import refuse_pickled_name
from quickthaw.v1 import catalog_pb2, deployments_pb2
from quickthaw.wire.errors import ArtifactNotFound

FILES_MAX: Final = 1_000
_TEXTS: Final = ("name", "base", "family", "component", "dtype", "quantize", "title", "license")
_OBJECTS: Final = ("defaults", "test")
_KNOWN: Final = frozenset({*_TEXTS, *_OBJECTS, "files", "scale", "visibility"})
_VISIBILITY: Final = {
    "": catalog_pb2.VISIBILITY_UNSPECIFIED,
    "private": catalog_pb2.VISIBILITY_PRIVATE,
    "shared": catalog_pb2.VISIBILITY_SHARED,
}


async def read_spec(
    body: JsonObject, uploads: Uploads, tenant: str
) -> deployments_pb2.DeploymentSpec:
    """Raises HttpError 422, naming the field, also for a file that is not the tenant's."""
    for name in body:
        if name not in _KNOWN:
            raise wrong([name], f"no such field; there are {', '.join(sorted(_KNOWN))}")
    texts = {name: _text(body, name) for name in _TEXTS}
    visibility = _VISIBILITY.get(_text(body, "visibility"))
    if visibility is None:
        raise wrong(["visibility"], "must be private, or shared (with an admin key)")
    scale = body.get("scale", 0.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise wrong(["scale"], "must be a number")
    model = texts.pop("name")
    if not model:
        raise wrong(["name"], "is required: OWNER/NAME, the owner being your tenant")
    objects = {f"{name}_json": _object(body, name) for name in _OBJECTS}
    files = await _files(body.get("files"), uploads, tenant)
    return deployments_pb2.DeploymentSpec(
        model=model, files=files, scale=float(scale), visibility=visibility, **texts, **objects
    )


async def _files(
    given: Json, uploads: Uploads, tenant: str
) -> list[deployments_pb2.DeploymentFile]:
    if not isinstance(given, list) or not 1 <= len(given) <= FILES_MAX:
        raise wrong(
            ["files"],
            f"must be a list of 1 to {FILES_MAX}: URLs of files that were uploaded here, or "
            "objects with `url` (or `id`) and `path`",
        )
    found: list[deployments_pb2.DeploymentFile] = []
    for index, each in enumerate(given):
        where: list[str | int] = ["files", index]
        file_id, path = _named(each, where)
        stored = await _find(uploads, tenant, file_id, where)
        path = path or stored.name
        try:
            refuse_pickled_name(path)
        except UploadRefused as error:
            raise wrong(where, str(error)) from error
        found.append(
            deployments_pb2.DeploymentFile(
                path=path, file_id=stored.file_id, size_bytes=stored.size_bytes
            )
        )
    return found


def _named(value: Json, where: list[str | int]) -> tuple[str, str]:
    """The upload's id, and the path if one is given."""
    if isinstance(value, str):
        return _id_of(value), ""
    if not isinstance(value, dict):
        raise wrong(where, "must be a URL, or an object with `url` (or `id`) and `path`")
    known = {name: _text(value, name, where) for name in ("url", "id", "path")}
    if bool(known["url"]) == bool(known["id"]):
        raise wrong(where, "must have `url` or `id`, and not both")
    return known["id"] or _id_of(known["url"]), known["path"]


def _id_of(url: str) -> str:
    """Of `.../files/<id>/<name>`, whatever name this gateway was reached under."""
    try:
        parts = unquote(urlsplit(url).path).split("/")
    except ValueError:
        return ""
    return parts[parts.index("files") + 1] if "files" in parts[:-1] else url


async def _find(uploads: Uploads, tenant: str, file_id: str, where: list[str | int]) -> StoredFile:
    gone = wrong(
        where,
        "is no upload of yours on this platform; upload it first, and give the URL or the id "
        "that you got",
    )
    try:
        stored = await uploads.find(file_id)
    except ArtifactNotFound as error:
        raise gone from error
    if stored.tenant != tenant:
        raise gone
    if not stored.size_bytes:
        raise wrong(where, "is an empty file")
    return stored


def _text(value: JsonObject, name: str, where: list[str | int] | None = None) -> str:
    text = value.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise wrong([*(where or []), name], "must be a text")
    return text


def _object(body: JsonObject, name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, dict):
        raise wrong([name], "must be an object of inputs and their values")
    return json.dumps(value)


def wrong(where: list[str] | list[str | int], what: str) -> HttpError:
    """About a field of the body."""
    return HttpError(422, [{"loc": ["body", *where], "msg": what, "type": "value_error"}])
