"""Packing a LoRA file: a snapshot that shares its base's components and adds the adapter's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from quickthaw.snapshot.adapters.convert import AdaptedLayer, read_lora
from quickthaw.snapshot.adapters.overlay import DOWN, UP
from quickthaw.snapshot.delta import DeltaOrigin
from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.format import FORMAT_VERSION, Problem, TensorSpec, invalid
from quickthaw.snapshot.headers import read_component_header
from quickthaw.snapshot.input_defaults import with_defaults
from quickthaw.snapshot.manifest import (
    ADAPTER_SCALE_MAX,
    COMPONENTS_MAX,
    Adapter,
    Component,
    Kind,
    Manifest,
)
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tensors import NAMES, contents
from quickthaw.snapshot.writer import StoreWriter
from quickthaw.wire.errors import InvalidArgument

STRENGTH_INPUT = "lora_scale"
_STRENGTH: Mapping[str, JsonValue] = {
    "type": "number",
    "description": "How strongly the LoRA acts; 1 is as it was packed, 0 not at all.",
    "minimum": -8,
    "maximum": 8,
    "default": 1.0,
}


def pack_adapter(
    path: Path,
    base: Snapshot,
    *,
    store: SnapshotStore | None = None,
    scale: float = 1.0,
    title: str = "",
    licence: str = "",
    defaults: Mapping[str, JsonValue] | None = None,
) -> str:
    """Adds a snapshot of `base` with the LoRA in `path` over it to `store`, by default base's own;
    its digest.

    `scale` is how strongly it acts by default; `defaults` override those of the base's input (one
    that distils takes fewer steps). If the base has adapters of its own, they stay, and the new one
    comes after them. Raises as `read_lora` does.
    """
    if not -ADAPTER_SCALE_MAX <= scale <= ADAPTER_SCALE_MAX:
        raise InvalidArgument(f"scale {scale:g} must lie within ±{ADAPTER_SCALE_MAX:g}")
    layers = read_lora(path, base.manifest, _stored_dtypes(base))
    if len(base.manifest.components) + len(layers) > COMPONENTS_MAX:
        invalid(Problem.MANIFEST, str(path), f"over {COMPONENTS_MAX} components with its base's")
    with (store or SnapshotStore(base.store.root)).writing() as writer:
        added = tuple(
            _component(writer, base.manifest, target, lines, scale)
            for target, lines in layers.items()
        )
        return writer.add_manifest(
            replace(
                base.manifest,
                title=title or f"{base.manifest.title or base.manifest.family} + {path.stem}",
                licence=licence or base.manifest.licence,
                created_by=f"quickthaw snapshot format {FORMAT_VERSION}",
                # Adapters are small and nothing runs without them, so they are loaded first.
                components=base.manifest.adapters + added + base.manifest.modules,
                input_schema=with_defaults(
                    _with_strength(base.manifest.input_schema), defaults or {}
                ),
            )
        )


def _with_strength(schema: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """A request may say how strongly the adapters act."""
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    return {**schema, "properties": {**known, STRENGTH_INPUT: dict(_STRENGTH)}}


def _stored_dtypes(base: Snapshot) -> dict[str, dict[str, str]]:
    store = base.store
    origins = (DeltaOrigin(store),)
    headers = {
        part.name: read_component_header(store.component_path(part.digest), part, origins)
        for part in base.manifest.modules
    }
    return {
        name: {entry.name: entry.dtype for entry in header.tensors}
        for name, header in headers.items()
    }


def _component(
    writer: StoreWriter, base: Manifest, target: str, layers: list[AdaptedLayer], scale: float
) -> Component:
    tensors: dict[str, torch.Tensor] = {}
    for layer in layers:
        tensors[f"{layer.name}.{DOWN}"] = layer.down
        tensors[f"{layer.name}.{UP}"] = layer.up
    specs = [
        TensorSpec(name, NAMES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    written = writer.add_component(specs, contents(tensors))
    alpha = Counter(layer.alpha for layer in layers).most_common(1)[0][0]
    return Component(
        name=_free_name(base, target),
        kind=Kind.ADAPTER,
        class_path="",
        config={},
        attention=None,
        dtypes=tuple(sorted({spec.dtype for spec in specs})),
        digest=written.digest,
        header_digest=written.header_digest,
        data_start=written.data_start,
        data_bytes=written.data_bytes,
        blocks=written.blocks,
        aliases={},
        adapter=Adapter(
            target=target,
            rank=max(layer.down.shape[0] for layer in layers),
            alpha=alpha,
            alphas={layer.name: layer.alpha for layer in layers if layer.alpha != alpha},
            scale=scale,
        ),
    )


def _free_name(base: Manifest, target: str) -> str:
    taken = {part.name for part in base.components}
    names = [f"lora_{target}", *(f"lora_{target}_{number}" for number in range(2, COMPONENTS_MAX))]
    return next(name for name in names if name not in taken)
