"""What `quickthaw run` does with events and files."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from quickthaw.cli import render
from quickthaw.cli.errors import UsageFault
from quickthaw.cli.output import Output, plain, stdout
from quickthaw.cli.progress import describe
from quickthaw.client import (
    Client,
    Event,
    Finished,
    Logged,
    Previewed,
    Progressed,
    Request,
    StateChanged,
)

_KINDS = {
    StateChanged: "state_changed",
    Progressed: "progressed",
    Previewed: "previewed",
    Logged: "logged",
}
_SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def file_stem(model: str, request_id: str) -> str:
    """`shapes-1f0c9a2b`: what the files of one request begin with."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", model.rsplit("/", 1)[-1]).strip(".-")
    return f"{name or 'output'}-{re.sub(r'[^A-Za-z0-9]', '', request_id)[-8:]}"


def check_folder(folder: Path) -> None:
    """Makes the folder for the output, before anything that costs money is asked for.

    Raises UsageFault if nothing can be saved there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageFault(
            f"--output {folder}: {error.strerror}", "name a folder that can be written to"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageFault(f"--output {folder} is not writable", "name another folder")


def save_files(client: Client, request: Request, folder: Path) -> list[Path]:
    """Every output file, checked against its digest. Raises as `Client.save_artifact`."""
    if request.artifacts:
        folder.mkdir(parents=True, exist_ok=True)
    stem = file_stem(request.model, request.request_id)
    return [
        client.save_artifact(artifact, folder / f"{stem}-{Path(artifact.name).name}")
        for artifact in request.artifacts
    ]


def as_json(request: Request, files: list[Path]) -> dict[str, object]:
    """The request with its receipt, and the path of each artifact among its facts."""
    described = plain(request)
    assert isinstance(described, dict)
    described["files"] = [str(path) for path in files]
    return described


class EventPrinter:
    """Prints events as lines on stdout, if enabled; remembers the request's id in any case."""

    def __init__(self, out: Output, folder: Path, enabled: bool) -> None:
        self._out = out
        self._folder = folder
        self._enabled = enabled
        self.request_id = ""

    def take(self, event: Event) -> None:
        self.request_id = event.request_id
        if not self._enabled or isinstance(event, Finished):
            return
        path = self._save(event) if isinstance(event, Previewed) else None
        if self._out.as_json:
            described = plain(event)
            assert isinstance(described, dict)
            line = {"event": _KINDS.get(type(event), "other"), **described}
            self._out.line(line if path is None else {**line, "path": str(path)})
        elif text := _text(event, path):
            print(f"{_clock(event.unix_ms)} {text}", flush=True)

    def finish(self, request: Request, files: list[Path]) -> None:
        """The last line of a stream."""
        if self._out.as_json:
            self._out.line({"event": "finished", **as_json(request, files)})
            return
        print(f"{_clock(request.finished_unix_ms)} {request.state}", flush=True)
        render.ended(stdout(), request, files)

    def _save(self, event: Previewed) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        suffix = _SUFFIXES.get(event.content_type, "bin")
        name = f"{file_stem('preview', event.request_id)}-{event.image_index}-{event.step:03d}"
        path = self._folder / f"{name}.{suffix}"
        path.write_bytes(event.data)
        return path


def _clock(unix_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_ms / 1000))


def _text(event: Event, path: Path | None) -> str:
    match event:
        case StateChanged():
            return describe(event)
        case Progressed():
            return f"step {event.step}/{event.steps}"
        case Previewed():
            return f"preview {path}"
        case Logged():
            return f"{event.level}: {event.text}"
        case _:
            return ""
