"""Loaders that misbehave, for the benchmark to catch. Their processes import this module."""

from __future__ import annotations

import os
from dataclasses import dataclass

from quickthaw.cli.bench.peers.base import Opened, PeerFacts, Tensors, plain_files
from quickthaw.cli.bench.subject import Subject


@dataclass(frozen=True, slots=True)
class Liar(PeerFacts):
    """Gives every tensor, one of them with another byte in it."""

    def open(self, subject: Subject, device: str) -> Opened:
        def load() -> Tensors:
            found = _cloned(subject)
            tensors = found["unet"]
            name = min(tensors)
            tensors[name].view(-1)[:1] += 1
            return found

        return Opened(load)


@dataclass(frozen=True, slots=True)
class Forgetful(PeerFacts):
    """Leaves a component out, which makes it quick."""

    def open(self, subject: Subject, device: str) -> Opened:
        def load() -> Tensors:
            return {name: each for name, each in _cloned(subject).items() if name != "vae"}

        return Opened(load)


@dataclass(frozen=True, slots=True)
class Idler(PeerFacts):
    """Maps the files and calls that loading."""

    def open(self, subject: Subject, device: str) -> Opened:
        from safetensors.torch import load_file

        def load() -> Tensors:
            return {name: load_file(path) for name, path in plain_files(subject).items()}

        return Opened(load)


@dataclass(frozen=True, slots=True)
class Crasher(PeerFacts):
    """Takes its process down."""

    def open(self, subject: Subject, device: str) -> Opened:
        def load() -> Tensors:
            print("this is the end", flush=True)
            os._exit(7)

        return Opened(load)


def _cloned(subject: Subject) -> Tensors:
    from safetensors.torch import load_file

    return {
        name: {key: tensor.clone() for key, tensor in load_file(path).items()}
        for name, path in plain_files(subject).items()
    }
