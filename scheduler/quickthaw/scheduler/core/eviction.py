"""What to drop from a worker's VRAM to make room: greedy-dual, by the time to load it again.

Greedy-Dual-Size-Frequency (Cherkasova, HP Labs 1998; for serverless keep-alive: FaasCache, ASPLOS
2021). A component's credit is `clock + uses x reload_seconds / size`, set when it is used; the one
with the least credit goes, and the clock rises to that credit, so that what is never used ages.
Changed here: what the slow planner found not worth keeping goes first, and what an endpoint wants
kept goes last; a request usually needs several victims at once, so those that turn out not to be
needed, because a bigger one chosen later made the room alone, are let off again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from quickthaw.scheduler.core.model import Digest

_GIB = float(1 << 30)


class _Entry(NamedTuple):
    credit: float
    uses: int
    reload_seconds: float


_UNKNOWN = _Entry(0.0, 0, 0.0)


class GreedyDual:
    """The credits of one worker's components."""

    __slots__ = ("_clock", "_entries", "_standings")

    def __init__(self) -> None:
        self._clock = 0.0
        self._entries: dict[Digest, _Entry] = {}
        self._standings: dict[Digest, int] = {}

    def touch(self, digest: Digest, size_bytes: int, reload_seconds: float) -> None:
        """The component was loaded or is about to be used."""
        uses = self._entries.get(digest, _UNKNOWN).uses + 1
        credit = self._clock + uses * reload_seconds * _GIB / max(size_bytes, 1)
        self._entries[digest] = _Entry(credit, uses, reload_seconds)
        self._standings.pop(digest, None)

    def rank(self, standings: Mapping[Digest, int]) -> bool:
        """What the slow planner thinks of the components: below 0 goes before all others, above 0
        after them; a use makes it 0 again. Whether that changed anything."""
        known = {digest: standing for digest, standing in standings.items() if standing}
        changed = known != self._standings
        self._standings = known
        return changed

    def standing(self, digest: Digest) -> int:
        return self._standings.get(digest, 0)

    def gone(self, digest: Digest) -> None:
        """The component has left VRAM; the clock rises to its credit."""
        if (entry := self._entries.pop(digest, None)) is not None:
            self._clock = max(self._clock, entry.credit)

    def reload_seconds(self, digests: Iterable[Digest]) -> float:
        """The time that it will take to bring these back."""
        seconds, known = 0.0, self._entries
        for digest in digests:
            seconds += known.get(digest, _UNKNOWN).reload_seconds
        return seconds

    def ordered(self, sizes: Iterable[tuple[Digest, int]]) -> list[tuple[Digest, int]]:
        """Components with their sizes, least credit first."""
        standings, credit = self._standings, self._credit
        if not standings:
            return sorted(sizes, key=lambda entry: (credit(entry[0]), entry[0]))
        return sorted(
            sizes,
            key=lambda entry: (standings.get(entry[0], 0), credit(entry[0]), entry[0]),
        )

    def _credit(self, digest: Digest) -> float:
        return self._entries.get(digest, _UNKNOWN).credit


def choose_victims(
    evictable: Iterable[tuple[Digest, int]], wanted: Container[Digest], need_bytes: int
) -> tuple[Digest, ...] | None:
    """Which to drop to free `need_bytes`, out of `evictable` (first to go first) less what is
    `wanted`; None if all of them are not enough."""
    chosen: list[tuple[Digest, int]] = []
    freed = 0
    for digest, size_bytes in evictable:
        if freed >= need_bytes:
            break
        if digest not in wanted:
            chosen.append((digest, size_bytes))
            freed += size_bytes
    if freed < need_bytes:
        return None
    kept: list[Digest] = []
    for digest, size_bytes in reversed(chosen):
        if freed - size_bytes >= need_bytes:
            freed -= size_bytes
        else:
            kept.append(digest)
    return tuple(reversed(kept))
