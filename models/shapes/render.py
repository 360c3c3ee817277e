"""Draws a scene as a 64x64 picture, with size and position left to chance.

Edges are antialiased from exact signed distances, so a picture shows sub-pixel positions and the
autoencoder sees smooth edges rather than steps.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captions import Background, Colour, Figure, Pair, Relation, Scene, Shape, Single, parse

SIZE = 64
"""Width and height of a picture, pixels."""

COLOURS: dict[Colour, tuple[int, int, int]] = {
    Colour.RED: (215, 38, 38),
    Colour.ORANGE: (245, 140, 20),
    Colour.YELLOW: (245, 225, 45),
    Colour.GREEN: (35, 160, 65),
    Colour.BLUE: (40, 85, 220),
    Colour.PURPLE: (150, 45, 180),
}
BACKGROUNDS: dict[Background, tuple[int, int, int]] = {
    Background.WHITE: (245, 245, 245),
    Background.BLACK: (15, 15, 15),
    Background.GREY: (125, 125, 125),
}

SINGLE_EXTENT = (24.0, 38.0)
PAIR_EXTENT = (20.0, 26.0)
MARGIN = 2.0
GAP = 3.0


@dataclass(frozen=True, slots=True)
class Placed:
    """A figure in the picture: centre of its bounding box and that box's width and height, pixels.

    All three shapes fill the box from edge to edge, so extent means the same for each.
    """

    figure: Figure
    x: float
    y: float
    extent: float


def place(scene: Scene, chance: random.Random) -> list[Placed]:
    """Random places that fit the picture and obey the scene's relation, figures in caption order.

    A pair's centres differ more along the relation's axis than across it, and there is a gap
    between the two bounding boxes, so the relation can be read without judgement.
    """
    match scene:
        case Single(figure):
            extent = chance.uniform(*SINGLE_EXTENT)
            low, high = MARGIN + extent / 2, SIZE - MARGIN - extent / 2
            return [Placed(figure, chance.uniform(low, high), chance.uniform(low, high), extent)]
        case Pair(first, relation, second):
            if relation in (Relation.BELOW, Relation.RIGHT_OF):
                return place(scene.mirrored(), chance)[::-1]
            before, after = chance.uniform(*PAIR_EXTENT), chance.uniform(*PAIR_EXTENT)
            slack = SIZE - 2 * MARGIN - GAP - before - after
            cuts = sorted((chance.uniform(0, slack), chance.uniform(0, slack)))
            along = (
                MARGIN + cuts[0] + before / 2,
                MARGIN + cuts[1] + before + GAP + after / 2,
            )
            middle = SIZE / 2 + chance.uniform(-8, 8)
            across = (middle + chance.uniform(-5, 5), middle + chance.uniform(-5, 5))
            if relation is Relation.ABOVE:
                along, across = across, along
            return [
                Placed(first, along[0], across[0], before),
                Placed(second, along[1], across[1], after),
            ]
        case _:
            assert_never(scene)


def _distance(
    shape: Shape, dx: NDArray[np.float32], dy: NDArray[np.float32], half: float
) -> NDArray[np.floating]:
    """Signed distance to the outline, negative inside; exact where it is small."""
    distance: NDArray[np.floating]
    match shape:
        case Shape.CIRCLE:
            distance = np.hypot(dx, dy) - half
        case Shape.SQUARE:
            distance = np.maximum(np.abs(dx), np.abs(dy)) - half
        case Shape.TRIANGLE:
            # Apex up: the flank falls by the whole height over half the base, slope 2.
            flank = (2 * np.abs(dx) - dy - half) / np.sqrt(np.float32(5))
            distance = np.maximum(flank, dy - half)
        case _:
            assert_never(shape)
    return distance


def coverage(shape: Shape, x: float, y: float, extent: float) -> NDArray[np.float32]:
    """How much of each pixel the shape covers, 0 to 1: SIZE x SIZE, rows first."""
    centres = np.arange(SIZE, dtype=np.float32) + 0.5
    dx, dy = centres[None, :] - x, centres[:, None] - y
    covered: NDArray[np.floating] = 0.5 - _distance(shape, dx, dy, extent / 2)
    return covered.clip(0, 1).astype(np.float32)


def draw(placed: Sequence[Placed], background: Background) -> NDArray[np.uint8]:
    """The picture, SIZE x SIZE x 3."""
    canvas = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    canvas[:] = BACKGROUNDS[background]
    for item in placed:
        alpha = coverage(item.figure.shape, item.x, item.y, item.extent)[..., None]
        canvas += alpha * (np.array(COLOURS[item.figure.colour], dtype=np.float32) - canvas)
    return np.round(canvas).astype(np.uint8)


def render(scene: Scene, chance: random.Random) -> NDArray[np.uint8]:
    """A picture of the scene, SIZE x SIZE x 3."""
    return draw(place(scene, chance), scene.background)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a caption as the training data shows it.")
    parser.add_argument("caption", help="for example 'a red circle above a blue square'")
    parser.add_argument("--seed", type=int, default=0, help="size and position (default 0)")
    parser.add_argument("--output", type=Path, default=Path("scene.png"), help="PNG to write")
    options = parser.parse_args()
    picture = render(parse(options.caption), random.Random(options.seed))
    Image.fromarray(picture).save(options.output)


if __name__ == "__main__":
    main()
