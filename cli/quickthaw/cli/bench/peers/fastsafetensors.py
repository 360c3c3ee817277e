"""fastsafetensors: whole files into one buffer, tensors as views of it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
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
class FastSafetensors(PeerFacts):
    """`nogds` reads through bounce buffers; without it GPUDirect Storage is tried.

    `block_bytes`: a file is read by one thread a block, and the default block is larger than most
    files.
    """

    nogds: bool = True
    block_bytes: int | None = None
    cuda_only: bool = field(default=False)

    def refusal(self, subject: Subject, device: str) -> str | None:
        absent = PeerFacts.refusal(self, subject, device)
        if absent is None and self.cuda_only and device != "cuda":
            return "needs CUDA"
        return absent

    def open(self, subject: Subject, device: str) -> Opened:
        files = plain_files(subject)
        library: Any = importlib.import_module("fastsafetensors")
        place = torch_name(device)
        blocks = {} if self.block_bytes is None else {"max_copy_block_size": self.block_bytes}

        def load() -> Tensors:
            found: Tensors = {}
            for name, path in files.items():
                loader = library.SafeTensorsFileLoader(None, device=place, nogds=self.nogds)
                loader.add_filenames({0: [str(path)]})
                # Its tensors own their share of the buffer, so nothing has to be cloned.
                buffer = loader.copy_files_to_device(**blocks)
                found[name] = {key: buffer.get_tensor(key) for key in loader.get_keys()}
                buffer.close()
                loader.close()
            wait_for(device)
            return found

        return Opened(load)
