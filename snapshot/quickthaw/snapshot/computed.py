"""Tensors that a class works out from its config and keeps outside parameters and buffers.

They are in no file, and on the meta device there is nothing in them. Each class that does so is
named here with how its tensors are made again; any other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from quickthaw.snapshot.format import Problem, invalid

_ANGLES_MAX = 1024
"""Of one position; a head of the model that has them is 128 wide."""


def _rotations(part: Any, where: str) -> None:
    """Qwen-Image's: of every position there may be."""
    axes = part.axes_dim
    if not all(isinstance(width, int) and width > 0 for width in axes) or sum(axes) > _ANGLES_MAX:
        invalid(Problem.MANIFEST, where, f"has rotations {axes!r:.80}, over {_ANGLES_MAX} wide")
    with torch.device("cpu"):
        again = type(part)(part.theta, part.axes_dim, part.scale_rope)
    part.pos_freqs, part.neg_freqs = again.pos_freqs, again.neg_freqs


_AGAIN: Mapping[tuple[str, str], Callable[[Any, str], None]] = {
    ("diffusers.models.transformers.transformer_qwenimage", "QwenEmbedRope"): _rotations,
}
"""By module and name, so that nothing is imported to find out."""


def compute_again(parts: Iterable[tuple[str, nn.Module]], where: str) -> None:
    """Fills in what these parts of a module, built on the meta device, have worked out. Raises
    `SnapshotInvalid`."""
    for name, part in parts:
        kind = type(part)
        if (make := _AGAIN.get((kind.__module__, kind.__name__))) is not None:
            make(part, f"{where}, {name}")
