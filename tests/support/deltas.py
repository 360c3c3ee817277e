"""Fine-tunes with chosen tensors changed, and plain components to make deltas of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from quickthaw.snapshot import Component, Kind, Snapshot, SnapshotStore
from quickthaw.snapshot.copiers import Source, open_source
from quickthaw.snapshot.delta import DeltaOrigin
from quickthaw.snapshot.delta_pack import DeltaPacker
from quickthaw.snapshot.format import TensorSpec
from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash
from quickthaw.snapshot.headers import read_component_header
from quickthaw.snapshot.manifest import Manifest
from quickthaw.snapshot.tensors import NAMES
from support.tiny_models import tiny_sd


def nudged(pipeline: Any, names: Iterable[str], component: str = "unet") -> Any:
    """Adds a little to the named tensors of a component, in place."""
    state = getattr(pipeline, component).state_dict()
    with torch.no_grad():
        for name in names:
            state[name] += 0.125
    return pipeline


def tuned_sd(*names: str) -> Any:
    """tiny_sd(0) with these tensors of its UNet changed."""
    return nudged(tiny_sd(0), names)


def manifest_of(*components: Component) -> Manifest:
    return Manifest(
        family="sd",
        title="",
        licence="",
        created_by="a test",
        pipeline_class="diffusers.StableDiffusionPipeline",
        pipeline_arguments={},
        components=components,
        schedulers=(),
        processors=(),
        preview=None,
        input_schema={},
        working_set_bytes=0,
    )


def add_component(
    store: SnapshotStore, tensors: Mapping[str, torch.Tensor], base: Component | None = None
) -> Component:
    """Stores tensors as a component named `part`, over `base` if that is worth it."""
    specs = [
        TensorSpec(name, NAMES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    below = None if base is None else Snapshot("0" * 64, manifest_of(base), store)
    with store.writing() as writer:
        written, delta = DeltaPacker(writer, below).add("part", specs, tensors, lambda _: None)
    return Component(
        name="part",
        kind=Kind.DENOISER,
        class_path="diffusers.UNet2DConditionModel",
        config={},
        attention=None,
        dtypes=tuple(sorted({spec.dtype for spec in specs})),
        digest=written.digest,
        header_digest=written.header_digest,
        data_start=written.data_start,
        data_bytes=written.data_bytes,
        blocks=written.blocks,
        aliases={},
        delta=delta,
    )


def open_stored(store: SnapshotStore, part: Component) -> Source:
    """The component's bytes from whatever files the store has of it."""
    origins = (DeltaOrigin(store),)

    def open_one(component: Component) -> Source:
        path = store.component_path(component.digest)
        return open_source(path, component, origins, open_one)

    return open_one(part)


def read_all(store: SnapshotStore, part: Component, span_bytes: int = BLOCK_BYTES) -> bytes:
    """The data section, read as a load reads it; every block is compared with the manifest."""
    read_component_header(store.component_path(part.digest), part, (DeltaOrigin(store),))
    whole = bytearray()
    source = open_stored(store, part)
    try:
        for start in range(0, part.data_bytes, span_bytes):
            size = min(span_bytes, part.data_bytes - start)
            room = bytearray(-(-size // 4096) * 4096)
            assert source.read_into(start, memoryview(room), size) == size
            whole += room[:size]
    finally:
        source.close()
    for block in range(part.block_count):
        piece = bytes(whole[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
        assert block_hash(piece) == part.block_hash(block)
    return bytes(whole)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*"))
