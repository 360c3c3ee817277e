"""The GPUs of a simulation: what they hold, how fast they load and run, what a second costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quickthaw.scheduler.core.model import Tier, TierSpeed

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class GpuKind:
    """`speed` is the run time's divisor against the reference GPU; money is nano-dollars."""

    gpu_type: str
    vram_bytes: int
    pinned_bytes: int
    rate_nanodollars_per_second: int
    speed: float
    tiers: Mapping[Tier, TierSpeed]


def _tiers(pinned: float, disk: float) -> Mapping[Tier, TierSpeed]:
    return {
        Tier.VRAM: TierSpeed(1e15, 0.0),
        Tier.PINNED: TierSpeed(pinned, 0.02),
        Tier.DISK: TierSpeed(disk, 0.05),
        Tier.REMOTE: TierSpeed(1.2e9, 0.3),
    }


# Of the size that vendors and clouds state, not measurements: `calibration` puts measured numbers
# in their place.
ASSUMED: Mapping[str, GpuKind] = {
    kind.gpu_type: kind
    for kind in (
        GpuKind("h100", 80 * GIB, 160 * GIB, 1_100_000, 1.0, _tiers(45e9, 5e9)),
        GpuKind("a100-40gb", 40 * GIB, 80 * GIB, 550_000, 0.55, _tiers(20e9, 3e9)),
        GpuKind("l40s", 48 * GIB, 64 * GIB, 430_000, 0.45, _tiers(20e9, 3e9)),
        GpuKind("l4", 24 * GIB, 32 * GIB, 200_000, 0.18, _tiers(12e9, 2e9)),
    )
}
