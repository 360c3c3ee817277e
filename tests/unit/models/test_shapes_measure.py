from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from captions import Background, Colour, Figure, Pair, Relation, Scene, Shape, Single
from measure import Score, read, score
from render import SIZE, Placed, draw, place, render

figures = st.builds(Figure, st.sampled_from(Colour), st.sampled_from(Shape))
grounds = st.sampled_from(Background)
pairs = st.builds(Pair, figures, st.sampled_from(Relation), figures, grounds)
scenes: st.SearchStrategy[Scene] = st.builds(Single, figures, grounds) | pairs
seeds = st.integers(0, 2**32)

RED_CIRCLE = Figure(Colour.RED, Shape.CIRCLE)
BLUE_SQUARE = Figure(Colour.BLUE, Shape.SQUARE)
CIRCLE_ABOVE_SQUARE = Pair(RED_CIRCLE, Relation.ABOVE, BLUE_SQUARE)


def scored(asked: Scene, drawn: Scene) -> Score:
    return score(asked, read(render(drawn, random.Random(7))))


def noisy(picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 6, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


@given(scenes, seeds)
def test_a_drawn_scene_reads_back_right_in_everything(scene: Scene, seed: int) -> None:
    outcome = score(scene, read(render(scene, random.Random(seed))))
    assert outcome.count
    assert outcome.all_right


@given(scenes, seeds)
def test_a_little_noise_does_not_change_the_reading(scene: Scene, seed: int) -> None:
    picture = noisy(render(scene, random.Random(seed)), seed)
    assert score(scene, read(picture)).all_right


@given(scenes, seeds)
def test_figures_stay_inside_the_picture_and_apart(scene: Scene, seed: int) -> None:
    placed = place(scene, random.Random(seed))
    for item in placed:
        for centre in (item.x, item.y):
            assert item.extent / 2 < centre < SIZE - item.extent / 2
    if len(placed) == 2:
        first, second = placed
        apart = max(abs(first.x - second.x), abs(first.y - second.y))
        assert apart > (first.extent + second.extent) / 2


@given(scenes, seeds, st.data())
def test_any_other_colour_is_scored_as_a_wrong_colour_only(
    scene: Scene, seed: int, data: st.DataObject
) -> None:
    placed = place(scene, random.Random(seed))
    old = placed[0].figure
    new = data.draw(st.sampled_from([colour for colour in Colour if colour is not old.colour]))
    placed[0] = dataclasses.replace(placed[0], figure=Figure(new, old.shape))
    outcome = score(scene, read(draw(placed, scene.background)))
    assert not outcome.colour
    assert outcome.count


@given(scenes, seeds, st.data())
def test_any_other_shape_is_scored_as_a_wrong_shape_with_right_colours(
    scene: Scene, seed: int, data: st.DataObject
) -> None:
    placed = place(scene, random.Random(seed))
    old = placed[0].figure
    new = data.draw(st.sampled_from([shape for shape in Shape if shape is not old.shape]))
    placed[0] = dataclasses.replace(placed[0], figure=Figure(old.colour, new))
    outcome = score(scene, read(draw(placed, scene.background)))
    assert not outcome.shape
    assert outcome.colour


@given(pairs, seeds, st.data())
def test_any_other_relation_of_two_unlike_figures_is_scored_as_a_wrong_relation_only(
    pair: Pair, seed: int, data: st.DataObject
) -> None:
    if pair.first == pair.second:
        pair = dataclasses.replace(pair, first=RED_CIRCLE, second=BLUE_SQUARE)
    others = [relation for relation in Relation if relation is not pair.relation]
    drawn = dataclasses.replace(pair, relation=data.draw(st.sampled_from(others)))
    outcome = score(pair, read(render(drawn, random.Random(seed))))
    assert outcome == Score(True, True, True, relation=False, background=True)


def test_shapes_that_changed_their_colours_are_wrong_though_all_words_are_in_the_picture() -> None:
    swapped = Pair(
        Figure(Colour.BLUE, Shape.CIRCLE), Relation.ABOVE, Figure(Colour.RED, Shape.SQUARE)
    )
    assert not scored(CIRCLE_ABOVE_SQUARE, swapped).all_right


def test_a_missing_figure_makes_colour_shape_and_relation_wrong() -> None:
    outcome = scored(CIRCLE_ABOVE_SQUARE, Single(RED_CIRCLE))
    assert outcome == Score(False, False, False, relation=False, background=True)


def test_an_extra_figure_makes_a_single_wrong() -> None:
    assert not scored(Single(RED_CIRCLE), CIRCLE_ABOVE_SQUARE).count


def test_a_wrong_background_is_noticed_while_the_figures_still_count() -> None:
    drawn = dataclasses.replace(CIRCLE_ABOVE_SQUARE, background=Background.BLACK)
    outcome = scored(CIRCLE_ABOVE_SQUARE, drawn)
    assert outcome == Score(True, True, True, relation=True, background=False)


def test_a_figure_that_is_neither_circle_nor_square_has_no_shape() -> None:
    circle = draw([Placed(RED_CIRCLE, 32, 32, 30)], Background.WHITE)
    circle[:, 40:] = circle[0, 0]
    assert [region.shape for region in read(circle).regions] == [None]


def test_a_colour_outside_the_palette_has_no_name() -> None:
    picture = draw([Placed(RED_CIRCLE, 32, 32, 30)], Background.WHITE)
    picture[picture[..., 1] < 100] = (90, 60, 30)
    assert [region.colour for region in read(picture).regions] == [None]


def test_an_empty_picture_has_no_regions() -> None:
    assert read(draw([], Background.GREY)).regions == ()


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="64x64"):
        read(np.zeros((32, 64, 3), dtype=np.uint8))
