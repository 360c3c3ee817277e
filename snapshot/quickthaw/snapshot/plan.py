"""What a load would move: pure, from a manifest and what is where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quickthaw.snapshot.manifest import Component, Manifest
from quickthaw.snapshot.tiers import Residency, Tier

_FASTEST_FIRST = (Tier.VRAM, Tier.PINNED, Tier.DISK)


@dataclass(frozen=True, slots=True)
class Step:
    """One component and the fastest tier that has it."""

    component: Component
    source: Tier


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Steps in load order, each component once however many names it has."""

    steps: tuple[Step, ...]

    @property
    def missing_bytes(self) -> int:
        """What has to be moved into VRAM, and so how much room it must have."""
        return sum(each.component.data_bytes for each in self.steps if each.source != Tier.VRAM)

    def bytes_from(self, tier: Tier) -> int:
        return sum(each.component.data_bytes for each in self.steps if each.source == tier)


def plan(manifest: Manifest, residency: Mapping[str, Residency]) -> LoadPlan:
    steps: dict[str, Step] = {}
    for part in manifest.components:
        if part.digest not in steps:
            present = residency.get(part.digest)
            tiers = frozenset[Tier]() if present is None else present.tiers
            source = next((tier for tier in _FASTEST_FIRST if tier in tiers), Tier.REMOTE)
            steps[part.digest] = Step(part, source)
    return LoadPlan(tuple(steps.values()))
