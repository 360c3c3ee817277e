"""Run:ai's model streamer and InstantTensor: readers of plain safetensors files."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from quickthaw.cli.bench.peers.base import (
    Opened,
    PeerFacts,
    Tensors,
    plain_files,
    torch_name,
    wait_for,
)
from quickthaw.cli.bench.subject import Subject


@dataclass(frozen=True, slots=True)
class RunaiStreamer(PeerFacts):
    """Its threads read into a buffer and hand tensors over as they arrive.

    It yields names without their file, and a pipeline's text encoders have names in common, so
    each file is a stream of its own.
    """

    def open(self, subject: Subject, device: str) -> Opened:
        files = plain_files(subject)
        library: Any = importlib.import_module("runai_model_streamer")

        def load() -> Tensors:
            found: Tensors = {}
            with library.SafetensorsStreamer() as streamer:
                for name, path in files.items():
                    streamer.stream_file(str(path), device=torch_name(device))
                    found[name] = dict(streamer.get_tensors())
            wait_for(device)
            return found

        return Opened(load)


@dataclass(frozen=True, slots=True)
class InstantTensor(PeerFacts):
    """Asynchronous direct reads through a pinned ring; clones by default, as the ring is reused."""

    def refusal(self, subject: Subject, device: str) -> str | None:
        return "needs CUDA" if device != "cuda" else PeerFacts.refusal(self, subject, device)

    def open(self, subject: Subject, device: str) -> Opened:
        files = plain_files(subject)
        library: Any = importlib.import_module("instanttensor")

        def load() -> Tensors:
            found: Tensors = {}
            for name, path in files.items():
                with library.safe_open(str(path), framework="pt", device=0) as file:
                    found[name] = dict(file.tensors())
            wait_for(device)
            return found

        return Opened(load)
