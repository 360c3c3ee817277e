"""diffusers' own way to a whole pipeline, with and without parallel loading."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.layouts import diffusers_folder
from quickthaw.cli.bench.peers.base import (
    Opened,
    PeerFacts,
    Tensors,
    own,
    plain_files,
    wait_for,
    write_plain_files,
)
from quickthaw.cli.bench.subject import Subject
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.tensors import DTYPES


@dataclass(frozen=True, slots=True)
class FromPretrained(PeerFacts):
    """`from_pretrained` of the whole pipeline, tokenizers of a few hundred words included.

    Parallel loading (`HF_ENABLE_PARALLEL_LOADING`) works on the shards of a component, so that one
    reads files that were split in four.
    """

    sharded: bool = False

    def refusal(self, subject: Subject, device: str) -> str | None:
        if subject.eight_bit:
            return "casts eight-bit weights to sixteen while loading: not the same model"
        return None

    def files(self, subject: Subject) -> list[Path]:
        return sorted(_folder(subject, self.sharded).rglob("*.safetensors"))

    def convert(self, subject: Subject) -> None:
        folder = _folder(subject, self.sharded)
        done = folder / ".done"
        if not done.exists():
            write_plain_files(subject)
            diffusers_folder(
                SnapshotStore(subject.store),
                subject.digest,
                plain_files(subject),
                folder,
                sharded=self.sharded,
            )
            done.touch()

    def open(self, subject: Subject, device: str) -> Opened:
        diffusers: Any = importlib.import_module("diffusers")
        transformers: Any = importlib.import_module("transformers")
        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        kind = getattr(diffusers, subject.pipeline_class.rpartition(".")[2])
        dtypes = {
            name: next(DTYPES[each] for each in kinds if DTYPES[each].is_floating_point)
            for name, kinds in subject.dtypes.items()
        }
        folder = _folder(subject, self.sharded)

        def load() -> Tensors:
            pipeline = kind.from_pretrained(folder, dtype=dtypes, local_files_only=True)
            found: Tensors = {}
            for name in subject.files:
                module = getattr(pipeline, name).to(device)
                found[name] = own(module.state_dict(), device)
            wait_for(device)
            return found

        return Opened(load)


def _folder(subject: Subject, sharded: bool) -> Path:
    return subject.folder / ("diffusers-sharded" if sharded else "diffusers")
