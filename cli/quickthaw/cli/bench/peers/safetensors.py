"""safetensors itself, in the three ways that it can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors

from quickthaw.cli.bench.peers.base import Opened, PeerFacts, Tensors, plain_files, wait_for
from quickthaw.cli.bench.subject import Subject

# Its types know nothing of the backend and of prefetch.
_safe_open: Any = safetensors.safe_open


@dataclass(frozen=True, slots=True)
class SafetensorsMmap(PeerFacts):
    """`load_file`, the default of the ecosystem: a private map; a clone makes it real on a CPU."""

    def open(self, subject: Subject, device: str) -> Opened:
        files = plain_files(subject)
        from safetensors.torch import load_file

        def load() -> Tensors:
            found: Tensors = {}
            for name, path in files.items():
                tensors = load_file(path, device=device)
                if device == "cpu":
                    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
                found[name] = tensors
            wait_for(device)
            return found

        return Opened(load)


@dataclass(frozen=True, slots=True)
class SafetensorsPread(PeerFacts):
    """One sequential read a tensor, into memory of its own."""

    def open(self, subject: Subject, device: str) -> Opened:
        files = plain_files(subject)

        def load() -> Tensors:
            found: Tensors = {}
            for name, path in files.items():
                with _safe_open(path, "pt", device=device, backend="pread") as file:
                    found[name] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            wait_for(device)
            return found

        return Opened(load)


@dataclass(frozen=True, slots=True)
class SafetensorsPrefetch(PeerFacts):
    """Background threads through shared pinned memory into the GPU; since 0.9."""

    def refusal(self, subject: Subject, device: str) -> str | None:
        if not hasattr(_safe_open, "prefetch"):
            return f"safetensors {safetensors.__version__} has no prefetch; it came with 0.9"
        return None if device == "cuda" else "needs CUDA"

    def open(self, subject: Subject, device: str) -> Opened:
        files = plain_files(subject)

        def load() -> Tensors:
            found: Tensors = {}
            handles = {name: _safe_open(path, "pt", device=device) for name, path in files.items()}
            loaders = {name: handle.prefetch() for name, handle in handles.items()}
            for name, loader in loaders.items():
                found[name] = dict(loader)
            wait_for(device)
            return found

        return Opened(load)
