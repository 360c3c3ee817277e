"""`quickthaw deploy --remote URL`: a laptop's files to a platform's packer, over HTTP."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from quickthaw.cli.deploying import Wanted
from quickthaw.cli.errors import UsageFault
from quickthaw.cli.packing import bar, fetched
from quickthaw.cli.remote.gateway import RemoteGateway, check
from quickthaw.cli.remote.uploading import Uploader, path_of
from quickthaw.cli.running import file_stem
from quickthaw.cli.values import parse_inputs
from quickthaw.client import JsonObject, JsonValue, Visibility
from quickthaw.wire.errors import BY_REASON, InvalidArgument, NotFound, SnapshotInvalid, Unavailable

POLL_SECONDS = 0.5
REMEMBER_SECONDS = 30 * 24 * 3600.0
FILES_MAX = 1_000
_INDEX = "model_index.json"
_SUFFIXES = frozenset({".json", ".txt", ".model", ".safetensors"})
_PICKLES = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl"})
# What is read as JSON needs no schema, but sizes have a form of their own.
_ANYTHING: JsonObject = {
    "properties": {
        "image_size": {"properties": {"width": {}, "height": {}}, "anyOf": [{"type": "string"}]}
    }
}


@dataclass(frozen=True, slots=True)
class Deployed:
    """As the gateway tells it, and what its self-test made."""

    deployment: Mapping[str, Any]
    files: tuple[Path, ...]


def memory_folder(environ: Mapping[str, str] = os.environ) -> Path:
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "quickthaw" / "uploads"


def deploy_remotely(
    gateway: RemoteGateway,
    uploader: Uploader,
    wanted: Wanted,
    test: tuple[str, ...],
    visibility: Visibility | None,
    output: Path,
) -> Deployed:
    """Sends what is not there yet, and waits until it serves.

    Raises UsageFault and SnapshotInvalid for what need not be sent to be refused, what the gateway
    refuses, what the deployment failed with, StoreUnavailable.
    """
    source = fetched(wanted.source)
    places = files_of(source)
    body = _asked(wanted, test, visibility)
    urls = _brought(uploader, places, source.name)
    named = [{"url": url, "path": path} for path, url in urls.items()]
    deployment = _created(gateway, {**body, "files": named})
    ended = _followed(gateway, str(deployment["id"]))
    if ended["state"] != "ready":
        error = ended.get("error") or {}
        kind = BY_REASON.get(str(error.get("type", "")).upper(), InvalidArgument)
        told = error.get("message") or f"it was {ended['state']}"
        raise kind(f"{ended['id']} ({ended['name']}): {told}")
    return Deployed(ended, tuple(_saved(gateway, ended, output)))


def files_of(source: Path) -> dict[str, Path]:
    """What has to be sent, by its place in what is deployed: one file, or of a diffusers folder
    what its index names. Raises UsageFault and SnapshotInvalid."""
    if source.is_file():
        if source.suffix in _PICKLES:
            raise SnapshotInvalid(f"{source}: a pickle can run code; convert it to safetensors")
        return {source.name: source}
    if not source.is_dir():
        raise UsageFault(f"{source}: no such file or folder")
    index = source / _INDEX
    if not index.is_file():
        raise SnapshotInvalid(f"{source}: not a diffusers folder: it has no {_INDEX}")
    found = {_INDEX: index}
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if not folder.name.startswith("."):
            found |= {f"{folder.name}/{path.name}": path for path in _needed(folder)}
    if len(found) > FILES_MAX:
        raise SnapshotInvalid(f"{source}: {len(found)} files; at most {FILES_MAX} are deployed")
    return found


def _needed(folder: Path) -> Iterator[Path]:
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    for name, path in files.items():
        # Weights that are there in full and in half precision are packed in full.
        twice = ".fp16." in name and name.replace(".fp16.", ".") in files
        if path.suffix in _SUFFIXES and not twice:
            yield path


def _asked(
    wanted: Wanted, test: tuple[str, ...], visibility: Visibility | None
) -> dict[str, object]:
    recipe = wanted.recipe
    given: dict[str, object] = {
        "name": wanted.name,
        "base": recipe.base,
        "family": recipe.family,
        "component": recipe.component,
        "dtype": recipe.dtype,
        "quantize": recipe.quantize,
        "scale": recipe.scale,
        "title": recipe.title,
        "license": recipe.licence,
        "visibility": None if visibility is None else str(visibility),
        "defaults": _values(wanted.defaults, "--default"),
        "test": _values(test, "--test"),
    }
    return {name: value for name, value in given.items() if value}


def _values(pairs: tuple[str, ...], option: str) -> dict[str, JsonValue]:
    """What is JSON is read as that; the platform knows the model's schema."""
    try:
        return parse_inputs(pairs, _ANYTHING, "the model")
    except UsageFault as fault:
        raise UsageFault(f"{option}: {fault.message}", fault.hint) from fault


def _brought(uploader: Uploader, places: Mapping[str, Path], name: str) -> dict[str, str]:
    """The URL of each file."""
    total = sum(path.stat().st_size for path in places.values())
    urls: dict[str, str] = {}
    with bar(f"uploading {name}", total) as (progress, task):
        for place, path in places.items():
            progress.update(task, description=f"uploading {place}")
            urls[place] = uploader.upload(path, lambda count: progress.advance(task, count))
    return urls


def _created(gateway: RemoteGateway, body: Mapping[str, object]) -> Mapping[str, Any]:
    """The deployment. One whose answer was lost on the way is found again: nothing else can have
    been asked for with these files."""
    try:
        answer = gateway.call("POST", "/v1/deployments", body, repeatable=False)
    except Unavailable:
        found = _with_files(gateway, body)
        if found is None:
            raise
        return found
    return cast("Mapping[str, Any]", check(answer).json())


def _with_files(gateway: RemoteGateway, body: Mapping[str, object]) -> Mapping[str, Any] | None:
    listed = check(gateway.call("GET", "/v1/deployments")).json()["deployments"]
    files = cast("list[dict[str, str]]", body["files"])
    ids = {path_of(each["url"]).split("/")[2] for each in files}
    for each in listed:
        open_ = each["finished_at"] is None
        if open_ and each["name"] == body["name"] and {f["id"] for f in each["files"]} == ids:
            return cast("Mapping[str, Any]", each)
    return None


def _followed(gateway: RemoteGateway, deployment_id: str) -> Mapping[str, Any]:
    """As it is when it has ended. It does not end with this command."""
    path = f"/v1/deployments/{deployment_id}"
    try:
        with bar("waiting for a packer", None) as (progress, task):
            while True:
                now = check(gateway.call("GET", path)).json()
                if now["finished_at"]:
                    return cast("Mapping[str, Any]", now)
                done = now["progress"]
                progress.update(
                    task,
                    description=now["step"] or now["state"],
                    completed=done["done_bytes"],
                    total=done["total_bytes"] or None,
                )
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(
            f"{deployment_id} goes on; see {gateway.url}{path}, or POST to {path}/cancel",
            file=sys.stderr,
        )
        raise


def _saved(gateway: RemoteGateway, ended: Mapping[str, Any], output: Path) -> Iterator[Path]:
    tried: Mapping[str, Any] = ended["self_test"] or {}
    for each in tried.get("files", ()):
        path = path_of(each["url"])
        stem = file_stem(ended["name"], str(tried["request_id"]))
        target = output / f"{stem}-{path.rpartition('/')[2]}"
        try:
            gateway.save(path, target)
        except NotFound:
            continue  # its time was over
        yield target


def forget_old(memory: Path, now: float) -> None:
    """Removes what is remembered of uploads of long ago."""
    for path in memory.glob("*"):
        with suppress(OSError):  # another process may have been quicker
            if path.stat().st_mtime < now - REMEMBER_SECONDS:
                path.unlink()
