"""A machine that loses power while a store is written: nothing half done may ever look whole.

The longer form, with every combination tried: `python -m bench.power_cuts`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.power_cuts import OPERATIONS, check

STATES_MAX = 120


@pytest.mark.parametrize("name", OPERATIONS)
def test_after_a_power_cut_a_store_holds_whole_snapshots_and_a_repeat_heals_it(
    name: str, tmp_path: Path
) -> None:
    result = check(name, tmp_path, seed=7, states_max=STATES_MAX)
    assert result.states >= 10
    assert not result.findings, result.findings[:3]
