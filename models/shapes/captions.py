"""The scenes that the shapes model can draw, and the English captions that name them.

A caption is one figure ("a red circle") or two with a relation between them ("a red circle above
a blue square"), with or without a background ("... on a black background"). Without one the
background is white, so that every caption has exactly one reading and a picture can be scored.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Colour(StrEnum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"


class Relation(StrEnum):
    """Where the first figure lies, seen from the second."""

    ABOVE = "above"
    BELOW = "below"
    LEFT_OF = "to the left of"
    RIGHT_OF = "to the right of"

    @property
    def converse(self) -> Relation:
        return _CONVERSE[self]


_CONVERSE = {
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
    Relation.LEFT_OF: Relation.RIGHT_OF,
    Relation.RIGHT_OF: Relation.LEFT_OF,
}


class Background(StrEnum):
    WHITE = "white"
    BLACK = "black"
    GREY = "grey"


@dataclass(frozen=True, slots=True)
class Figure:
    colour: Colour
    shape: Shape


@dataclass(frozen=True, slots=True)
class Single:
    figure: Figure
    background: Background = Background.WHITE

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (self.figure,)


@dataclass(frozen=True, slots=True)
class Pair:
    first: Figure
    relation: Relation
    second: Figure
    background: Background = Background.WHITE

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (self.first, self.second)

    def mirrored(self) -> Pair:
        """The same picture told from the other figure."""
        return Pair(self.second, self.relation.converse, self.first, self.background)


Scene = Single | Pair

HELD_OUT_SHARE = 0.15


def all_figures() -> list[Figure]:
    return [Figure(colour, shape) for colour, shape in itertools.product(Colour, Shape)]


def all_scenes() -> Iterator[Scene]:
    """Every scene of the domain, each pair in both tellings."""
    figures = all_figures()
    for background in Background:
        for figure in figures:
            yield Single(figure, background)
        for first, relation, second in itertools.product(figures, Relation, figures):
            yield Pair(first, relation, second, background)


def is_held_out(scene: Scene) -> bool:
    """Whether training must never see the scene; a fixed share, chosen by hash.

    A pair is judged without its background and in one fixed telling, so that no held-out
    combination reaches training in another colour of background or told the other way round.
    """
    match scene:
        case Single(figure, background):
            key = f"{figure.colour} {figure.shape} on {background}"
        case Pair(relation=Relation.BELOW | Relation.RIGHT_OF):
            return is_held_out(scene.mirrored())
        case Pair(first, relation, second):
            key = f"{first.colour} {first.shape} {relation} {second.colour} {second.shape}"
        case _:
            assert_never(scene)
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    return fraction < HELD_OUT_SHARE


def caption(scene: Scene) -> str:
    """The plain caption; the background is named unless it is the white that captions default to.

    `parse` reads it back to an equal scene.
    """
    return _render(scene, article=True, short_relation=False, name_white=False)


def varied_caption(scene: Scene, chance: random.Random) -> str:
    """One of the tellings that training mixes, so that people need not know one exact wording."""
    if isinstance(scene, Pair) and chance.random() < 0.5:
        scene = scene.mirrored()
    return _render(
        scene,
        article=chance.random() < 0.85,
        short_relation=chance.random() < 0.5,
        name_white=chance.random() < 0.5,
    )


def _render(scene: Scene, *, article: bool, short_relation: bool, name_white: bool) -> str:
    def name(figure: Figure) -> str:
        bare = f"{figure.colour} {figure.shape}"
        if not article:
            return bare
        return f"an {bare}" if bare[0] in "aeiou" else f"a {bare}"

    match scene:
        case Single(figure):
            text = name(figure)
        case Pair(first, relation, second):
            words = relation.removeprefix("to the ") if short_relation else relation.value
            text = f"{name(first)} {words} {name(second)}"
        case _:
            assert_never(scene)
    if scene.background is not Background.WHITE or name_white:
        text += f" on a {scene.background} background"
    return text


_FIGURE = rf"(?:an? |the )?({'|'.join(Colour)}) ({'|'.join(Shape)})"
_CAPTION = re.compile(
    rf"{_FIGURE}"
    rf"(?: (above|below|(?:to the )?(?:left|right) of) {_FIGURE})?"
    rf"(?: on an? ({'|'.join(Background)}) background)?"
)


def parse(text: str) -> Scene:
    """The scene that a caption names; raises ValueError for a text outside the grammar."""
    match = _CAPTION.fullmatch(" ".join(text.lower().split()).rstrip("."))
    if match is None:
        raise ValueError(
            f"{text!r} is not a caption of this model: write, for example, 'a red circle', or "
            "'a red circle above a blue square on a black background'"
        )
    colour, shape, relation, other_colour, other_shape, background = match.groups()
    figure = Figure(Colour(colour), Shape(shape))
    ground = Background(background or Background.WHITE)
    if relation is None:
        return Single(figure, ground)
    if relation.startswith(("left", "right")):
        relation = f"to the {relation}"
    other = Figure(Colour(other_colour), Shape(other_shape))
    return Pair(figure, Relation(relation), other, ground)
