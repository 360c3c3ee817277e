"""A snapshot as an ordinary pipeline in memory of its own: what single files are packed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.pipelines import build_pipeline
from quickthaw.snapshot.processors import build_processor
from quickthaw.snapshot.reader import Snapshot, StoreReader
from quickthaw.snapshot.skeleton import build
from quickthaw.snapshot.stored import StoredTensors
from quickthaw.snapshot.tensors import DTYPES, slots
from quickthaw.wire.errors import InvalidArgument


def live_pipeline(snapshot: Snapshot) -> Any:
    """The snapshot's pipeline on the CPU, to be changed at will; adapters are left out.

    Raises `InvalidArgument` if its weights are in eight bits, which cannot be packed again.
    """
    manifest, store = snapshot.manifest, snapshot.store
    for part in manifest.modules:
        if part.quantization is not None:
            raise InvalidArgument(
                f"snapshot {snapshot.digest[:12]} has eight-bit weights; pack over the one that it "
                "was made from, with --quantize"
            )
    modules = {part.name: _module(store, part) for part in manifest.modules}
    processors = {part.name: build_processor(part, store) for part in manifest.processors}
    return build_pipeline(manifest, modules, processors)


def _module(store: StoreReader, part: Component) -> nn.Module:
    module = build(part)
    with StoredTensors(store, part) as stored:
        tensors = {
            entry.name: _tensor(stored[entry.name], DTYPES[entry.dtype], entry.shape)
            for entry in stored.header.tensors
        }
    parameters = {
        name: nn.Parameter(tensor, requires_grad=False) for name, tensor in tensors.items()
    }
    for slot in slots(module):
        name = part.aliases.get(slot.name, slot.name)
        slot.holder[slot.key] = parameters[name] if slot.is_parameter else tensors[name]
    return module


def _tensor(content: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not content.nbytes:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def save_without_weights(pipeline: Any, folder: Path) -> None:
    """A diffusers folder with everything but weights: what a whole checkpoint is read with."""
    pipeline.save_config(folder)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            described: Any = part
            if hasattr(described, "save_config"):
                described.save_config(folder / name)
            else:
                described.config.save_pretrained(folder / name)
        elif part is not None:
            part.save_pretrained(folder / name)
