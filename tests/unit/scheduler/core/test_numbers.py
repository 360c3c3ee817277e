"""Single numbers of the core's settings, by name."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.numbers import names, parse_numbers, with_numbers
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.wire.errors import SettingsInvalid


def test_numbers_of_every_part_are_set_by_name_and_the_rest_stays() -> None:
    pairs = ["moves_max=7", "load_weight=0.5", "supply.room_share=0.1", "crash.deaths=9"]
    before = CoreSettings()
    after = with_numbers(before, parse_numbers("--core", pairs))
    told = (after.moves_max, after.placement.load_weight)
    assert told == (7, 0.5)
    assert (after.supply.room_share, after.crash.deaths) == (0.1, 9)
    changed = {name for name, value in names(after).items() if value != names(before)[name]}
    assert changed == {pair.partition("=")[0] for pair in pairs}


def test_every_number_can_be_given_back() -> None:
    settings = CoreSettings()
    assert with_numbers(settings, names(settings)) == settings


def test_a_number_keeps_its_kind() -> None:
    after = with_numbers(CoreSettings(), {"moves_max": 3.0, "load_weight": 1})
    assert isinstance(after.moves_max, int)
    assert isinstance(after.placement.load_weight, float)


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("mu=1", "no setting 'mu'"),
        ("tenant_weights=1", "no setting 'tenant_weights'"),
        ("room_share=1", "no setting 'room_share'"),
        ("moves_max", "--core moves_max: must be NAME=NUMBER"),
        ("moves_max=1.5", "must be a whole number"),
        ("moves_max=-1", "not negative"),
        ("load_weight=nan", "not negative"),
        ("load_weight=inf", "not negative"),
    ],
)
def test_what_is_no_number_of_the_core_is_refused_by_name(pair: str, told: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        parse_numbers("--core", [pair])
    assert told in refused.value.message
