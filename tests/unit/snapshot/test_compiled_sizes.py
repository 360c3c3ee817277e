"""Which calls code of open sizes is for; whether it is right is `integration/test_compiled`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.snapshot.compiled.calls import Form, form_of, to_json
from quickthaw.snapshot.compiled.sizes import ITEMS_MAX, Sizes, open_form, tensor_sizes

TOKENS, WIDTH = 64, 32


def called(*tensors: torch.Tensor, **others: object) -> Form:
    return form_of(tensors, dict(others))[0]


def picture_and_text(
    batch: int = 2, picture: int = TOKENS, text: int = 16, width: int = WIDTH
) -> Form:
    parts = (torch.empty(batch, picture, width), torch.empty(batch, text, width))
    return called(*parts, rope=[torch.empty(picture + text, 8)], scale=1.0)


@pytest.fixture
def sizes() -> Sizes:
    """As the compiler tells them of a block that joins a picture's tokens and a text's."""
    tensors = [
        (["s0", "s1", "32"], ["32*s1", "32", "1"]),
        (["s0", "s2", "32"], ["32*s2", "32", "1"]),
        (["s1 + s2", "8"], ["8", "1"]),
    ]
    conditions = ["s0 >= 2", "s1 >= 2", "s2 >= 2", "(s1 + s2) % 16 == 0"]
    return Sizes(tensors, conditions)


side = st.integers(2, 100)


@given(side, side, side, side)
def test_calls_of_other_sizes_have_one_open_form(a: int, b: int, c: int, d: int) -> None:
    assert open_form(picture_and_text(a, b, c, d)) == open_form(picture_and_text())


@pytest.mark.parametrize(
    "other",
    [
        called(torch.empty(1, 64, 32)),
        called(torch.empty(0, 64, 32)),
        called(torch.empty(64, 32)),
        called(torch.empty(2, 32, 64).transpose(1, 2)),
        called(torch.empty(64, 32).expand(2, 64, 32)),
        called(torch.empty(2, 64, 32, dtype=torch.bfloat16)),
        called(torch.empty(2, 64, 32), scale=2.0),
    ],
)
def test_calls_that_differ_in_more_than_sizes_have_other_open_forms(other: Form) -> None:
    whole = called(torch.empty(2, 64, 32))
    assert open_form(other) != open_form(whole)
    assert to_json(open_form(whole)) != to_json(whole), "nor are they found under each other's key"


@given(st.integers(2, 9), st.integers(2, 200), st.integers(2, 200))
def test_exactly_the_sizes_that_fulfil_all_conditions_are_admitted(
    batch: int, picture: int, text: int
) -> None:
    own = Sizes(
        [
            (["s0", "s1", "32"], ["32*s1", "32", "1"]),
            (["s0", "s2", "32"], ["32*s2", "32", "1"]),
            (["s1 + s2", "8"], ["8", "1"]),
        ],
        ["(s1 + s2) % 16 == 0", "s1 >= 16"],
    )
    fits = (picture + text) % 16 == 0 and picture >= 16
    form = picture_and_text(batch, picture, text)
    assert own.admits(form) is fits
    again = Sizes.from_json(json.loads(json.dumps(own.to_json())))
    assert again.values(form) == own.values(form)


def wrong_width() -> Form:
    return picture_and_text(width=WIDTH + 1)


def one_text_for_all() -> Form:
    parts = (torch.empty(2, TOKENS, WIDTH), torch.empty(3, 16, WIDTH))
    return called(*parts, rope=[torch.empty(TOKENS + 16, 8)])


def a_part_of_something_larger() -> Form:
    parts = (torch.empty(2, 99, WIDTH)[:, :TOKENS], torch.empty(2, 16, WIDTH))
    return called(*parts, rope=[torch.empty(TOKENS + 16, 8)])


def fewer() -> Form:
    return called(torch.empty(2, TOKENS, WIDTH), torch.empty(2, 16, WIDTH))


def other_dimensions() -> Form:
    return called(torch.empty(2, TOKENS, WIDTH), torch.empty(2, 16, WIDTH), torch.empty(80))


def too_large() -> Form:
    return picture_and_text(batch=ITEMS_MAX // (TOKENS * WIDTH) + 1)


@pytest.mark.parametrize(
    "make",
    [wrong_width, one_text_for_all, a_part_of_something_larger, fewer, other_dimensions, too_large],
)
def test_what_code_does_not_reckon_with_is_not_admitted(make: Any, sizes: Sizes) -> None:
    with torch.device("meta"):
        assert sizes.admits(picture_and_text())
        assert not sizes.admits(make())


def test_the_step_between_pictures_does_not_matter_where_there_is_one() -> None:
    one = Sizes([(["1", "s0", "32"], ["32*s0", "32", "1"])], [])
    sliced = torch.empty(1, 99, 32)[:, :64]
    assert sliced.stride() != (64 * 32, 32, 1)
    assert open_form(called(sliced)) == open_form(called(torch.empty(1, 64, 32)))
    assert one.admits(called(sliced))


def test_a_division_by_nothing_is_no_fit() -> None:
    own = Sizes([(["s0"], ["1"])], ["8 % (s0 - 4) == 0"])
    assert own.admits(called(torch.empty(8)))
    assert not own.admits(called(torch.empty(4)))


@pytest.mark.parametrize("condition", ["s9 > 1", "open('x')", "s0.real", "__import__('os')"])
def test_nothing_but_sizes_is_reckoned_with(condition: str) -> None:
    with pytest.raises(ValueError, match="no size of a tensor"):
        Sizes([(["s0"], ["1"])], [condition])


def changed(sizes: Sizes, change: Callable[[int], int]) -> list[tuple[int, ...]] | None:
    other = sizes.other(picture_and_text(), change)
    return None if other is None else [shape for shape, _ in tensor_sizes(other)]


def test_another_size_is_found_where_the_conditions_hold(sizes: Sizes) -> None:
    assert changed(sizes, lambda size: 2 * size) == [(4, 128, 32), (4, 32, 32), (160, 8)]
    # 81 is no multiple of 16, but nothing is wrong with three at once.
    assert changed(sizes, lambda size: size + 1) == [(3, 64, 32), (3, 16, 32), (80, 8)]
    assert changed(sizes, lambda size: size) is None, "that is the same"
    assert changed(sizes, lambda size: 1) is None, "nor is one ever open"
