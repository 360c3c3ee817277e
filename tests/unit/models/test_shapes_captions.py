from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions import (
    Background,
    Colour,
    Figure,
    Pair,
    Relation,
    Scene,
    Shape,
    Single,
    all_scenes,
    caption,
    is_held_out,
    parse,
    varied_caption,
)
from data import SceneSource

figures = st.builds(Figure, st.sampled_from(Colour), st.sampled_from(Shape))
grounds = st.sampled_from(Background)
singles = st.builds(Single, figures, grounds)
pairs = st.builds(Pair, figures, st.sampled_from(Relation), figures, grounds)
scenes: st.SearchStrategy[Scene] = singles | pairs


def test_a_plain_caption_is_an_english_phrase_that_names_the_scene() -> None:
    scene = Pair(
        Figure(Colour.ORANGE, Shape.CIRCLE),
        Relation.LEFT_OF,
        Figure(Colour.BLUE, Shape.SQUARE),
        Background.BLACK,
    )
    expected = "an orange circle to the left of a blue square on a black background"
    assert caption(scene) == expected


def test_a_caption_without_a_background_means_white() -> None:
    assert parse("a red circle") == Single(Figure(Colour.RED, Shape.CIRCLE), Background.WHITE)


@given(scenes)
def test_a_caption_reads_back_to_its_scene(scene: Scene) -> None:
    assert parse(caption(scene)) == scene


@given(scenes, st.integers(0, 2**32))
def test_every_way_of_telling_a_scene_names_the_same_picture(scene: Scene, seed: int) -> None:
    told = parse(varied_caption(scene, random.Random(seed)))
    tellings = {scene, scene.mirrored()} if isinstance(scene, Pair) else {scene}
    assert told in tellings


@pytest.mark.parametrize("text", ["", "a pink circle", "a red circle above", "two red circles"])
def test_a_text_outside_the_grammar_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write, for example"):
        parse(text)


def test_about_a_seventh_of_the_scenes_is_held_out_among_pairs_and_among_singles() -> None:
    everything = list(all_scenes())
    pairs_out = [is_held_out(scene) for scene in everything if isinstance(scene, Pair)]
    singles_out = [is_held_out(scene) for scene in everything if isinstance(scene, Single)]
    assert 0.12 < sum(pairs_out) / len(pairs_out) < 0.18
    assert sum(singles_out) >= 3


@given(pairs, grounds)
def test_a_held_out_pair_is_held_out_on_every_background_and_in_both_tellings(
    pair: Pair, ground: Background
) -> None:
    elsewhere = Pair(pair.first, pair.relation, pair.second, ground)
    assert is_held_out(elsewhere) is is_held_out(pair)
    assert is_held_out(pair.mirrored()) is is_held_out(pair)


def test_the_training_source_draws_trained_scenes_of_both_kinds_and_no_held_out_one() -> None:
    source = SceneSource(seed=5)
    drawn = [source.scene() for _ in range(5000)]
    assert not any(is_held_out(scene) for scene in drawn)
    assert {type(scene) for scene in drawn} == {Single, Pair}


def test_two_sources_with_one_seed_draw_the_same_scenes_and_pictures() -> None:
    scenes_a, pictures_a = SceneSource(seed=3).batch(4)
    scenes_b, pictures_b = SceneSource(seed=3).batch(4)
    assert scenes_a == scenes_b
    assert pictures_a.equal(pictures_b)
