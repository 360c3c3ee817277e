"""Training scenes and their pictures as tensors; held-out scenes never come out of here."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from captions import Pair, Scene, Single, all_scenes, is_held_out
from render import render

SINGLE_SHARE = 0.25
"""Singles are a hundredth of the scenes but the easiest lesson in what a word looks like."""


class SceneSource:
    """Draws training scenes at random; two sources with one seed draw the same."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        scenes = [scene for scene in all_scenes() if not is_held_out(scene)]
        self._singles = [scene for scene in scenes if isinstance(scene, Single)]
        self._pairs = [scene for scene in scenes if isinstance(scene, Pair)]

    def scene(self) -> Scene:
        if self._chance.random() < SINGLE_SHARE:
            return self._chance.choice(self._singles)
        return self._chance.choice(self._pairs)

    def batch(self, size: int) -> tuple[list[Scene], torch.Tensor]:
        """Scenes and their pictures: size x 3 x 64 x 64, float32 in -1 to 1."""
        scenes = [self.scene() for _ in range(size)]
        return scenes, to_tensor([render(scene, self._chance) for scene in scenes])


def to_tensor(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """Pictures as the autoencoder takes them: N x 3 x H x W, float32 in -1 to 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(batch: torch.Tensor) -> list[NDArray[np.uint8]]:
    """The reverse of `to_tensor`, clipped to the valid range."""
    scaled = ((batch.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(scaled.permute(0, 2, 3, 1).cpu().numpy())


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], columns: int = 8) -> NDArray[np.uint8]:
    """The pictures in rows, the last row filled up with black."""
    blank = np.zeros_like(pictures[0])
    filled = [*pictures, *[blank] * (-len(pictures) % columns)]
    rows = [filled[start : start + columns] for start in range(0, len(filled), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])
