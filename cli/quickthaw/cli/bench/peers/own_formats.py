"""Loaders with a format of their own: tensorizer, torch's, ServerlessLLM's store."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.peers.base import (
    Opened,
    PeerFacts,
    Tensors,
    not_installed,
    own,
    read_all,
    wait_for,
)
from quickthaw.cli.bench.subject import Subject


@dataclass(frozen=True, slots=True)
class Tensorizer(PeerFacts):
    """`readers`: threads that read one file; None leaves it to the library."""

    readers: int | None = None

    def files(self, subject: Subject) -> list[Path]:
        return [_path(subject, "tensorizer", name) for name in subject.files]

    def convert(self, subject: Subject) -> None:
        library: Any = importlib.import_module("tensorizer")
        for name, tensors in read_all(subject).items():
            if not (path := _path(subject, "tensorizer", name)).exists():
                path.parent.mkdir(exist_ok=True)
                whole = path.with_suffix(".part")
                serializer = library.TensorSerializer(str(whole))
                serializer.write_state_dict(tensors)
                serializer.close()
                whole.rename(path)

    def open(self, subject: Subject, device: str) -> Opened:
        library: Any = importlib.import_module("tensorizer")

        def load() -> Tensors:
            return fetch(str(subject.folder))

        def fetch(place: str) -> Tensors:
            found: Tensors = {}
            for name in subject.files:
                path = f"{place}/tensorizer/{name}.tensorizer"
                deserializer = library.TensorDeserializer(
                    path, device=device, num_readers=self.readers
                )
                found[name] = dict(deserializer)
                deserializer.close()
            wait_for(device)
            return found

        return Opened(load, fetch)


@dataclass(frozen=True, slots=True)
class TorchLoad(PeerFacts):
    """A state dict as torch saves it, mapped; what is mapped is cloned."""

    def refusal(self, subject: Subject, device: str) -> str | None:
        return None

    def files(self, subject: Subject) -> list[Path]:
        return [_path(subject, "torch", name) for name in subject.files]

    def convert(self, subject: Subject) -> None:
        import torch

        for name, tensors in read_all(subject).items():
            if not (path := _path(subject, "torch", name)).exists():
                path.parent.mkdir(exist_ok=True)
                whole = path.with_suffix(".part")
                torch.save(tensors, whole)
                whole.rename(path)

    def open(self, subject: Subject, device: str) -> Opened:
        import torch

        def load() -> Tensors:
            found: Tensors = {}
            for name in subject.files:
                path = _path(subject, "torch", name)
                views = torch.load(path, map_location=device, mmap=True, weights_only=True)
                found[name] = own(views, device)
            wait_for(device)
            return found

        return Opened(load)


@dataclass(frozen=True, slots=True)
class ServerlessLlm(PeerFacts):
    """ServerlessLLM's checkpoint store: a daemon (`sllm-store start`) with a pinned pool.

    The daemon must have been started with `--storage-path` at the folder that the error names, on
    its default port; the model is unloaded from its pool before each run, so that it reads files.
    """

    def refusal(self, subject: Subject, device: str) -> str | None:
        if device != "cuda":
            return "needs CUDA"
        return not_installed(self.distribution)

    def files(self, subject: Subject) -> list[Path]:
        root = subject.folder / "serverless-llm"
        return sorted(path for path in root.rglob("*") if path.is_file())

    def convert(self, subject: Subject) -> None:
        library: Any = importlib.import_module("sllm_store.torch")
        root = subject.folder / "serverless-llm"
        for name, tensors in read_all(subject).items():
            if not (root / name / "tensor_index.json").exists():
                # It writes whole storages, so each tensor needs one of its own.
                library.save_dict(own(tensors, "cpu"), str(root / name))

    def open(self, subject: Subject, device: str) -> Opened:
        library: Any = importlib.import_module("sllm_store.torch")
        root = str(subject.folder / "serverless-llm")
        try:
            client = library.SllmStoreClient("127.0.0.1:8073")
        except Exception as error:
            raise RuntimeError(
                f"its daemon does not answer ({error}): sllm-store start --storage-path {root}"
            ) from error

        def load() -> Tensors:
            found: Tensors = {
                name: library.load_dict(name, {"": 0}, storage_path=root) for name in subject.files
            }
            wait_for(device)
            return found

        def before() -> None:
            for name in subject.files:
                client.unload_from_cpu(name)

        return Opened(load, before=before)


def _path(subject: Subject, kind: str, component: str) -> Path:
    return subject.folder / kind / f"{component}.{kind}"
