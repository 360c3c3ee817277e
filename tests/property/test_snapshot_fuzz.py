"""Broken snapshots, the short form. The long one: `python -m bench.fuzz_snapshots`."""

from __future__ import annotations

import random

import pytest

from support.fuzz.campaign import run

MUTANTS = 800


@pytest.mark.timeout(300)  # processes that import everything first, on machines that are busy
def test_a_broken_snapshot_is_refused_with_a_named_error_or_is_what_it_says() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"repeat one with: python -m bench.fuzz_snapshots --seed {seed} --only INDEX")
    result = run(seed, range(MUTANTS), workers=2, wall_seconds=60)
    assert not result.findings, f"seed {seed}: {result.findings[:5]}"
    assert result.mutants == MUTANTS, f"seed {seed}"
    assert len(result.outcomes) > 15, "mutations of one kind only"
