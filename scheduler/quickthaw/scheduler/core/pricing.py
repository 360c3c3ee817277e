"""From metered time and delivered outputs to money: integers only, one rule for each way to end.

Only the run is metered; queue time and loads never are. A run that succeeded, was cancelled by its
caller or was stopped because its account could pay no more is billed to the millisecond. One that
failed, or whose worker was lost, is not: the ledger line then says why in `waiver`. A model that is
sold by its outputs costs what it delivers and nothing for its time, so a run of it that delivered
nothing is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from quickthaw.scheduler.core.model import ModelId, Outcome, OutputUnits

WORKER_LOST = "worker_lost"
BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
NO_OUTPUT = "no_output"
RESERVED = "reserved"

MICRO = 10**6
"""Outputs are counted in millionths, so that a pixel is a whole number of megapixels."""


class Unit(Enum):
    """What of a model's outputs is sold."""

    IMAGE = "image"
    MEGAPIXEL = "megapixel"
    VIDEO_SECOND = "video_second"


class Tariff(NamedTuple):
    """What one attempt costs; fixed when its interval opens. With a unit outputs are charged, and
    the rate only says what the GPU's time is worth to the fair order."""

    rate_nanodollars_per_second: int
    unit: Unit | None = None
    unit_price_nanodollars: int = 0


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What one model costs in place of the GPU type's rate: a rate of its own, for all types or by
    type, or a price for each unit of output."""

    rate_nanodollars_per_second: int | None = None
    rates: Mapping[str, int] = field(default_factory=dict)
    unit: Unit | None = None
    unit_price_nanodollars: int = 0


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Rates by GPU type. `version` names the table in ledger lines and receipts.

    `dedicated_rates` are for workers that are reserved, by the second for as long as they are.
    """

    version: str
    default_rate_nanodollars_per_second: int
    rates: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, ModelPrice] = field(default_factory=dict)
    dedicated_rates: Mapping[str, int] = field(default_factory=dict)

    def rate(self, gpu_type: str) -> int:
        """In nano-dollars a second."""
        return self.rates.get(gpu_type, self.default_rate_nanodollars_per_second)

    def tariff(self, model: ModelId, gpu_type: str) -> Tariff:
        """What a run of this model on this GPU type costs, if it were placed now."""
        price = self.models.get(model)
        if price is None:
            return Tariff(self.rate(gpu_type))
        if price.unit is not None:
            return Tariff(self.rate(gpu_type), price.unit, price.unit_price_nanodollars)
        own = price.rates.get(gpu_type, price.rate_nanodollars_per_second)
        return Tariff(self.rate(gpu_type) if own is None else own)

    def expected_nanodollars(
        self, model: ModelId, gpu_type: str, outputs: OutputUnits, run_seconds: float
    ) -> float:
        """What such a run costs if it takes so long, or delivers what was asked for."""
        tariff = self.tariff(model, gpu_type)
        if tariff.unit is None:
            return run_seconds * tariff.rate_nanodollars_per_second
        asked = micro_units(tariff.unit, outputs)
        return units_price_nanodollars(asked, tariff.unit_price_nanodollars)

    def dedicated_rate(self, gpu_type: str) -> int:
        """Of a reserved worker; the shared rate where no other is set."""
        return self.dedicated_rates.get(gpu_type, self.rate(gpu_type))


class Bill(NamedTuple):
    billed_ms: int
    price_nanodollars: int
    waiver: str


class Delivered(NamedTuple):
    """What a model that is sold by its outputs has delivered, in millionths of its unit."""

    micro_units: int
    unit_price_nanodollars: int


def dollars(nanodollars: int) -> str:
    """For messages; exact: `$0.000013792`."""
    sign = "-" if nanodollars < 0 else ""
    whole, part = divmod(abs(nanodollars), 10**9)
    return f"{sign}${whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')}"


def price_nanodollars(billed_ms: int, rate_nanodollars_per_second: int) -> int:
    """Rounded half up."""
    return (billed_ms * rate_nanodollars_per_second + 500) // 1000


def units_price_nanodollars(micro_units: int, unit_price_nanodollars: int) -> int:
    """Rounded half up."""
    return (micro_units * unit_price_nanodollars + MICRO // 2) // MICRO


def affordable_ms(nanodollars: int, rate_nanodollars_per_second: int) -> int:
    """The longest run whose price is at most this; the rate must be more than 0."""
    return max(0, (nanodollars * 1000 + 499) // rate_nanodollars_per_second)


def micro_units(unit: Unit, outputs: OutputUnits) -> int:
    match unit:
        case Unit.IMAGE:
            return outputs.images * MICRO
        case Unit.MEGAPIXEL:
            return outputs.pixels
        case Unit.VIDEO_SECOND:
            return outputs.video_ms * 1000


def waiver_of(waived_for: str) -> str:
    """The ledger's word for why a failed attempt is free: `worker_lost`, or a failure's reason."""
    return waived_for if waived_for == WORKER_LOST else f"failed:{waived_for.lower()}"


def bill(
    outcome: Outcome,
    metered_ms: int,
    rate: int,
    *,
    waived_for: str = "",
    delivered: Delivered | None = None,
) -> Bill:
    """`waived_for`: the failure's reason, or `worker_lost`; needed where the outcome is FAILED.
    `delivered` is for what is sold by its outputs."""
    if outcome is Outcome.FAILED and (delivered or waived_for.upper() != BUDGET_EXHAUSTED):
        return Bill(0, 0, waiver_of(waived_for))
    if delivered is None:
        return Bill(metered_ms, price_nanodollars(metered_ms, rate), "")
    if outcome is Outcome.SUCCEEDED:
        price = units_price_nanodollars(delivered.micro_units, delivered.unit_price_nanodollars)
        return Bill(0, price, "")
    return Bill(0, 0, NO_OUTPUT)
