"""What is where on this worker, and what has to go to make room: pure bookkeeping."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from quickthaw.worker.attempts import LoadSummary, Tier


@dataclass(frozen=True, slots=True)
class Resident:
    """One component in one tier. A component may be in several."""

    digest: str
    tier: Tier
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Delta:
    added: tuple[Resident, ...]
    removed: tuple[Resident, ...]


@dataclass(frozen=True, slots=True)
class TierSpeed:
    tier: Tier
    bytes_per_second: float
    latency_seconds: float


class ResidencyView:
    """What the scheduler has been told; `update` says what it must be told next."""

    def __init__(self) -> None:
        self._known: frozenset[Resident] = frozenset()

    @property
    def known(self) -> frozenset[Resident]:
        return self._known

    def update(self, now_resident: Iterable[Resident]) -> Delta | None:
        """None if nothing changed."""
        current = frozenset(now_resident)
        added, removed = current - self._known, self._known - current
        self._known = current
        if not added and not removed:
            return None
        order = _by_tier_and_digest
        return Delta(tuple(sorted(added, key=order)), tuple(sorted(removed, key=order)))

    def bytes_by_tier(self) -> dict[Tier, int]:
        totals = dict.fromkeys(Tier, 0)
        for line in self._known:
            totals[line.tier] += line.size_bytes
        return totals


def _by_tier_and_digest(line: Resident) -> tuple[int, str]:
    return int(line.tier), line.digest


class LeastRecentlyUsed:
    """When each component was last used, by a counter: order is all that matters."""

    def __init__(self) -> None:
        self._tick = 0
        self._used: dict[str, int] = {}

    def touch(self, digests: Iterable[str]) -> None:
        """All of one use count as equally recent."""
        self._tick += 1
        for digest in digests:
            self._used[digest] = self._tick

    def oldest_first(self, digests: Iterable[str]) -> list[str]:
        """Never used comes first; ties break by digest."""
        return sorted(digests, key=lambda digest: (self._used.get(digest, 0), digest))

    def forget(self, digest: str) -> None:
        """It is in no tier any more."""
        self._used.pop(digest, None)


@dataclass(frozen=True, slots=True)
class Room:
    """`evict`: digests to free, in order. `short_bytes`: what is still lacking after that."""

    evict: tuple[str, ...]
    short_bytes: int


def make_room(
    needed_bytes: int,
    free_bytes: int,
    resident: Collection[Resident],
    in_use: Collection[str],
    wanted: Collection[str],
    order: LeastRecentlyUsed,
) -> Room:
    """Which components of one tier to evict so that `needed_bytes` fit, least recently used first.

    Never what is `in_use`, nor what the load itself wants (`wanted`).
    """
    sizes = {line.digest: line.size_bytes for line in resident}
    candidates = [digest for digest in sizes if digest not in in_use and digest not in wanted]
    evict: list[str] = []
    for digest in order.oldest_first(candidates):
        if free_bytes >= needed_bytes:
            break
        evict.append(digest)
        free_bytes += sizes[digest]
    return Room(tuple(evict), max(0, needed_bytes - free_bytes))


class TierSpeeds:
    """Bytes a second out of each tier as loads have shown it: a moving average over loads."""

    WEIGHT = 0.3

    def __init__(self) -> None:
        self._bytes_per_second: dict[Tier, float] = {}

    def observe(self, load: LoadSummary) -> None:
        """Only what moved, and only loads whose bytes all came from one tier say anything."""
        moved = [part for part in load.components if part.source is not Tier.VRAM]
        tiers = {part.source for part in moved}
        if len(tiers) != 1 or load.bytes_seconds <= 0:
            return
        (tier,) = tiers
        speed = sum(part.size_bytes for part in moved) / load.bytes_seconds
        before = self._bytes_per_second.get(tier, speed)
        self._bytes_per_second[tier] = before + self.WEIGHT * (speed - before)

    def lines(self) -> list[TierSpeed]:
        return [
            TierSpeed(tier, speed, 0.0) for tier, speed in sorted(self._bytes_per_second.items())
        ]
