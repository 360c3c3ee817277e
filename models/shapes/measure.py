"""Reads a picture back from its pixels, with no model: which shapes, of what colour, and where.

The reader knows the domain's palette and three silhouettes, nothing of any prompt. It separates
figures from the background, gives each connected region the nearest palette colour and the
silhouette that overlaps it best, and answers None where nothing is near enough, so that a blurred
or half-drawn figure counts as wrong rather than as the closest guess.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captions import Background, Colour, Pair, Relation, Scene, Shape, Single, parse
from render import BACKGROUNDS, COLOURS, SIZE, coverage

BACKGROUND_DISTANCE = 60.0
"""A pixel nearer than this to the background colour (Euclidean, RGB 0 to 255) is background."""
PALETTE_DISTANCE = 60.0
"""A region further than this from every palette colour has no colour."""
SMALLEST_REGION = 12
"""Regions of fewer pixels are specks, not figures."""
LEAST_OVERLAP = 0.8
"""Intersection over union below which a region has no shape."""
SLIMMEST = 1.33
"""A region longer than this many times its width, or the reverse, has no shape."""

GROWTHS = (-1.0, 0.0, 1.0, 2.0, 3.0)
"""Extents to try for an ideal silhouette, relative to the region's box."""

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Region:
    """A connected patch of figure: x and y are the centre of its bounding box, pixels."""

    colour: Colour | None
    shape: Shape | None
    x: float
    y: float
    pixels: int


@dataclass(frozen=True, slots=True)
class _Box:
    """A bounding box: x and y are its centre, pixels."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def around(cls, mask: NDArray[np.bool_]) -> _Box:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        width, height = float(np.ptp(columns)) + 1, float(np.ptp(rows)) + 1
        return cls(float(columns[0]) + width / 2, float(rows[0]) + height / 2, width, height)

    @property
    def bottom(self) -> float:
        return self.y + self.height / 2

    @property
    def mean(self) -> float:
        return (self.width + self.height) / 2


@dataclass(frozen=True, slots=True)
class Reading:
    background: Background | None
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """What a picture gets right about a scene; relation is None where the scene has none."""

    count: bool
    colour: bool
    shape: bool
    relation: bool | None
    background: bool

    @property
    def all_right(self) -> bool:
        return self.colour and self.shape and self.relation is not False and self.background


def _nearest(
    rgb: NDArray[np.float32], palette: Mapping[Key, tuple[int, int, int]], limit: float
) -> Key | None:
    name = min(palette, key=lambda key: float(np.linalg.norm(rgb - np.array(palette[key]))))
    return name if np.linalg.norm(rgb - np.array(palette[name])) <= limit else None


def _components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Four-connected regions of the mask, largest first."""
    left = mask.copy()
    found: list[NDArray[np.bool_]] = []
    for row, column in np.argwhere(mask):
        if not left[row, column]:
            continue
        region = np.zeros_like(mask)
        stack = [(int(row), int(column))]
        left[row, column] = False
        while stack:
            y, x = stack.pop()
            region[y, x] = True
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= ny < mask.shape[0] and 0 <= nx < mask.shape[1] and left[ny, nx]:
                    left[ny, nx] = False
                    stack.append((ny, nx))
        found.append(region)
    return sorted(found, key=lambda region: -int(region.sum()))


def _interior(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask less its outline, whose pixels mix two colours; all of it if nothing is left."""
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner if inner.any() else mask


def _shape(mask: NDArray[np.bool_], box: _Box) -> Shape | None:
    """The silhouette that overlaps the mask best, each tried in a few sizes and at two heights.

    An ideal silhouette may be a little larger than the mask's box: a drawn triangle's apex fades
    out before its geometric tip, so its box is lower than the triangle is.
    """
    if not 1 / SLIMMEST <= box.width / box.height <= SLIMMEST:
        return None
    overlaps = dict.fromkeys(Shape, 0.0)
    for shape, extent in itertools.product(Shape, (box.mean + grown for grown in GROWTHS)):
        for y in (box.y, box.bottom - extent / 2):
            ideal = coverage(shape, box.x, y, extent) > 0.5
            overlap = float((mask & ideal).sum() / (mask | ideal).sum())
            overlaps[shape] = max(overlaps[shape], overlap)
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best if overlaps[best] >= LEAST_OVERLAP else None


def read(picture: NDArray[np.uint8]) -> Reading:
    """Reads a SIZE x SIZE x 3 picture."""
    if picture.shape != (SIZE, SIZE, 3):
        raise ValueError(f"expected a {SIZE}x{SIZE} RGB picture, got shape {picture.shape}")
    rgb = picture.astype(np.float32)
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    ground = np.median(border, axis=0)
    apart = np.linalg.norm(rgb - ground, axis=-1)
    regions: list[Region] = []
    for rough in _components(apart > BACKGROUND_DISTANCE):
        if rough.sum() < SMALLEST_REGION:
            continue
        colour = np.median(rgb[_interior(rough)], axis=0)
        # The edge is where a pixel is half figure, half background.
        mask = rough & (apart > 0.5 * np.linalg.norm(colour - ground))
        if mask.sum() < SMALLEST_REGION:
            continue
        box = _Box.around(mask)
        name = _nearest(colour, COLOURS, PALETTE_DISTANCE)
        regions.append(Region(name, _shape(mask, box), box.x, box.y, int(mask.sum())))
    return Reading(_nearest(ground, BACKGROUNDS, PALETTE_DISTANCE), tuple(regions))


def _relation_holds(relation: Relation, first: Region, second: Region) -> bool:
    dx, dy = first.x - second.x, first.y - second.y
    match relation:
        case Relation.ABOVE:
            return -dy > abs(dx)
        case Relation.BELOW:
            return dy > abs(dx)
        case Relation.LEFT_OF:
            return -dx > abs(dy)
        case Relation.RIGHT_OF:
            return dx > abs(dy)


def score(scene: Scene, reading: Reading) -> Score:
    """Compares a reading with the scene that was asked for.

    A missing or an extra region makes everything but the background wrong. Regions are matched to
    figures in the way that agrees most, colour before shape before relation, so that two figures
    in each other's place count as a wrong relation and not also as wrong colours.
    """
    background = reading.background is scene.background
    figures = scene.figures
    if len(reading.regions) != len(figures):
        missing = None if isinstance(scene, Single) else False
        return Score(False, False, False, missing, background)

    def agreement(regions: Sequence[Region]) -> tuple[int, int, bool]:
        pairs = list(zip(figures, regions, strict=True))
        return (
            sum(figure.colour is region.colour for figure, region in pairs),
            sum(figure.shape is region.shape for figure, region in pairs),
            not isinstance(scene, Pair) or _relation_holds(scene.relation, *regions),
        )

    colours, shapes, related = max(map(agreement, itertools.permutations(reading.regions)))
    return Score(
        count=True,
        colour=colours == len(figures),
        shape=shapes == len(figures),
        relation=related if isinstance(scene, Pair) else None,
        background=background,
    )


def describe(region: Region) -> str:
    return f"{region.colour or '?'} {region.shape or '?'} at ({region.x:.0f}, {region.y:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Read a 64x64 picture back from its pixels.")
    parser.add_argument("picture", type=Path, help="PNG to read")
    parser.add_argument("--prompt", help="also score the picture against this caption")
    options = parser.parse_args()
    reading = read(np.asarray(Image.open(options.picture).convert("RGB")))
    print("; ".join(map(describe, reading.regions)), "on", reading.background)
    if options.prompt:
        print(score(parse(options.prompt), reading))


if __name__ == "__main__":
    main()
