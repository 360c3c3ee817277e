"""FlashPack (fal): its own packed format, read by threads into one block of memory."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.peers.base import (
    Opened,
    PeerFacts,
    Tensors,
    own,
    read_all,
    wait_for,
)
from quickthaw.cli.bench.subject import Subject


@dataclass(frozen=True, slots=True)
class FlashPack(PeerFacts):
    """On a CPU its default is a lazy map, cloned here; the parallel reader is asked for by
    `FLASHPACK_CPU_PARALLEL_READ=1`. On a GPU the parallel reader is the default."""

    gpu: bool = True
    """Whether it differs from the default on a GPU too."""

    def refusal(self, subject: Subject, device: str) -> str | None:
        if device == "cuda" and not self.gpu:
            return "the same as FlashPack's default on a GPU"
        return PeerFacts.refusal(self, subject, device)

    def files(self, subject: Subject) -> list[Path]:
        return [_path(subject, name) for name in subject.files]

    def convert(self, subject: Subject) -> None:
        flashpack: Any = importlib.import_module("flashpack")
        for name, tensors in read_all(subject).items():
            if not (path := _path(subject, name)).exists():
                path.parent.mkdir(exist_ok=True)
                whole = path.with_suffix(".part")
                flashpack.pack_to_file(tensors, str(whole), target_dtype=None)
                whole.rename(path)

    def open(self, subject: Subject, device: str) -> Opened:
        reader: Any = importlib.import_module("flashpack.deserialization")
        lazy = not self.environment

        def load() -> Tensors:
            found: Tensors = {}
            for name in subject.files:
                storage, meta = reader.read_flashpack_file(str(_path(subject, name)), device)
                views = dict(reader.iterate_from_flash_tensor(storage, meta))
                found[name] = own(views, device) if lazy else views
            wait_for(device)
            return found

        return Opened(load)


def _path(subject: Subject, component: str) -> Path:
    return subject.folder / "flashpack" / f"{component}.flashpack"
