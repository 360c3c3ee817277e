from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.gateway.sealed import SEAL_CHARS_MAX, SealBroken, Sealer

SECRET = bytes(range(32))


def a_sealer(secret: bytes = SECRET, now: Callable[[], float] = lambda: 1000.0) -> Sealer:
    return Sealer(secret, now)


def test_any_gateway_with_the_same_secret_understands_a_seal() -> None:
    seal = a_sealer().seal("upload", {"name": "ä.png", "parts": [1]}, 60)
    assert seal.replace("-", "").replace("_", "").isalnum()
    assert a_sealer().unseal("upload", seal) == {"name": "ä.png", "parts": [1]}


def test_a_seal_says_nothing_to_its_holder() -> None:
    assert a_sealer().seal("x", {"key": "a"}, 60) != a_sealer().seal("x", {"key": "a"}, 60)


def test_a_seal_for_one_purpose_is_none_for_another() -> None:
    seal = a_sealer().seal("upload", {}, 60)
    with pytest.raises(SealBroken):
        a_sealer().unseal("token", seal)
    with pytest.raises(SealBroken):
        a_sealer(bytes(32)).unseal("upload", seal)


def test_a_seal_ends() -> None:
    seal = a_sealer().seal("upload", {}, 60)
    assert a_sealer(now=lambda: 1059.9).unseal("upload", seal) == {}
    with pytest.raises(SealBroken):
        a_sealer(now=lambda: 1060.0).unseal("upload", seal)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_altered_seal_is_broken(at: int, flip: int) -> None:
    seal = a_sealer().seal("upload", {"a": 1}, 60)
    at %= len(seal)
    altered = seal[:at] + chr(ord(seal[at]) ^ flip) + seal[at + 1 :]
    with pytest.raises(SealBroken):
        a_sealer().unseal("upload", altered)


@given(st.text(max_size=200))
def test_any_text_is_merely_no_seal(text: str) -> None:
    with pytest.raises(SealBroken):
        a_sealer().unseal("upload", text)


def test_a_long_text_is_not_even_looked_at() -> None:
    with pytest.raises(SealBroken):
        a_sealer().unseal("upload", "A" * (SEAL_CHARS_MAX + 1))
