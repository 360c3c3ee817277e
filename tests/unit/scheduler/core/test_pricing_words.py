"""Money in messages."""

import pytest

from quickthaw.scheduler.core.pricing import dollars


@pytest.mark.parametrize(
    ("nanodollars", "text"),
    [(0, "$0.00"), (1, "$0.000000001"), (13_792, "$0.000013792"), (2_500_000_000, "$2.50")],
)
def test_a_price_in_a_message_is_exact_and_in_dollars(nanodollars: int, text: str) -> None:
    assert dollars(nanodollars) == text
