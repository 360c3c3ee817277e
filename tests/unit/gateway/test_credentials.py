from __future__ import annotations

import pytest

from quickthaw.gateway.credentials import read_credential
from quickthaw.wire.errors import Unauthenticated


@pytest.mark.parametrize("value", ["Key qt_a_b", "key  qt_a_b ", "Bearer qt_a_b", "BEARER qt_a_b"])
def test_both_forms_of_a_key_reach_the_scheduler_as_one(value: str) -> None:
    assert read_credential({"authorization": value}) == "Key qt_a_b"


def test_no_key_is_for_the_scheduler_to_refuse() -> None:
    assert read_credential({}) == ""


@pytest.mark.parametrize(
    "value",
    ["qt_a_b", "Basic abc", "Key", "Key a b", "Key \u00fc", "Key a\x01", "Key " + "x" * 513],
)
def test_what_is_no_key_is_refused_here(value: str) -> None:
    with pytest.raises(Unauthenticated):
        read_credential({"authorization": value})
