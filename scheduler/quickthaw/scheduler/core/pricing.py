"""From metered milliseconds to money: integers only, one rule for each way to end.

Only the run is metered; queue time and loads never are. A run that succeeded or was cancelled by
its caller is billed to the millisecond. One that failed, or whose worker was lost, is not: the
ledger line then says why in `waiver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from quickthaw.scheduler.core.model import Outcome

WORKER_LOST = "worker_lost"


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Rates by GPU type. `version` names the table in ledger lines and receipts."""

    version: str
    default_rate_nanodollars_per_second: int
    rates: Mapping[str, int] = field(default_factory=dict)

    def rate(self, gpu_type: str) -> int:
        """In nano-dollars a second."""
        return self.rates.get(gpu_type, self.default_rate_nanodollars_per_second)


class Bill(NamedTuple):
    billed_ms: int
    price_nanodollars: int
    waiver: str


def dollars(nanodollars: int) -> str:
    """For messages; exact: `$0.000013792`."""
    whole, part = divmod(nanodollars, 10**9)
    return f"${whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')}"


def price_nanodollars(billed_ms: int, rate_nanodollars_per_second: int) -> int:
    """Rounded half up."""
    return (billed_ms * rate_nanodollars_per_second + 500) // 1000


def bill(outcome: Outcome, metered_ms: int, rate: int, *, waived_for: str = "") -> Bill:
    """`waived_for`: the failure's reason, or `worker_lost`; needed where the outcome is FAILED."""
    match outcome:
        case Outcome.SUCCEEDED | Outcome.CANCELLED:
            return Bill(metered_ms, price_nanodollars(metered_ms, rate), "")
        case Outcome.FAILED:
            waiver = waived_for if waived_for == WORKER_LOST else f"failed:{waived_for.lower()}"
            return Bill(0, 0, waiver)
