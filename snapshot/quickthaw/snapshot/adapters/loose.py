"""LoRAs that come with a request: read against a loaded base, and laid over it for one run.

A packed LoRA is components of a snapshot; a loose one is a file somebody named, whose layers are
kept as plain tensors for as long as whoever reads it likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from quickthaw.snapshot.adapters.convert import ADAPTED_KINDS, AdaptedLayer, read_lora
from quickthaw.snapshot.adapters.overlay import Bound, LayerWeights, bind, check_layer
from quickthaw.snapshot.manifest import Component, Manifest
from quickthaw.snapshot.tensors import NAMES, slots


@dataclass(frozen=True, slots=True)
class LooseAdapter:
    """A LoRA's layers by component of the base that it was read for. The tensors are its own."""

    layers: Mapping[str, Sequence[AdaptedLayer]]

    @property
    def nbytes(self) -> int:
        return sum(
            line.down.nbytes + line.up.nbytes for lines in self.layers.values() for line in lines
        )

    def to(self, device: torch.device) -> LooseAdapter:
        """There; the same if it is there already."""
        return LooseAdapter(
            {
                name: [
                    replace(line, down=line.down.to(device), up=line.up.to(device))
                    for line in lines
                ]
                for name, lines in self.layers.items()
            }
        )

    def bound(self, modules: Mapping[str, nn.Module], scale: float, where: str) -> Bound:
        """For `Overlay.with_more`. Raises `SnapshotInvalid` if it does not fit the modules."""
        found: dict[str, dict[str, LayerWeights]] = {}
        for target, lines in self.layers.items():
            module = modules[target]
            for line in lines:
                check_layer(module, line.name, line.down, line.up, where)
            found[target] = {
                line.name: LayerWeights(line.down, line.up, line.alpha, scale) for line in lines
            }
        return found


def targets(base: Manifest) -> tuple[Component, ...]:
    """The components that LoRAs may adapt."""
    return tuple(part for part in base.modules if part.kind in ADAPTED_KINDS)


def read_loose(
    path: Path,
    base: Manifest,
    modules: Mapping[str, nn.Module],
    where: str,
    bytes_max: int | None = None,
) -> LooseAdapter:
    """The LoRA in a file, for a base whose modules are loaded; at most `bytes_max` of it in their
    types. Raises as `read_lora`."""
    dtypes = {
        part.name: {
            slot.name: NAMES[tensor.dtype]
            for slot in slots(modules[part.name])
            if (tensor := slot.holder[slot.key]) is not None and tensor.dtype in NAMES
        }
        for part in targets(base)
    }
    read = read_lora(path, base, dtypes, where, bytes_max)
    return LooseAdapter({name: [_own(line) for line in lines] for name, lines in read.items()})


def _own(line: AdaptedLayer) -> AdaptedLayer:
    """Apart from the file, whose pages the library's tensors may be views of."""
    return replace(line, down=line.down.clone(), up=line.up.clone())


def unpacked(
    part: Component, tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module]
) -> LooseAdapter:
    """A packed adapter as a loose one, with its own copies, the scale it was packed with in its
    alphas. Raises `SnapshotInvalid` if it does not fit."""
    assert part.adapter is not None
    target = part.adapter.target
    bound = bind(part.adapter, tensors, modules[target], f"component {part.name}")
    return LooseAdapter(
        {
            target: [
                _own(AdaptedLayer(name, line.down, line.up, line.alpha * line.scale))
                for name, line in bound.items()
            ]
        }
    )
