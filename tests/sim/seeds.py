"""How many random seeds the properties are tried on: 1,000, or QUICKTHAW_TEST_SEEDS."""

from __future__ import annotations

import os

SEEDS = int(os.environ.get("QUICKTHAW_TEST_SEEDS", "1000"))
CHUNKS = 10


def chunk(number: int) -> range:
    """The seeds of one of the CHUNKS tests among which they are shared."""
    return range(number * SEEDS // CHUNKS, (number + 1) * SEEDS // CHUNKS)
