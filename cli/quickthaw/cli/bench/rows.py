"""The rows of the report: which loader, from which tier, beside which floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from quickthaw.cli.bench.peers.base import Peer


class From(StrEnum):
    """Where the bytes are when the clock starts."""

    DISK = "disk"
    PAGE_CACHE = "page-cache"
    PINNED = "pinned"
    REMOTE = "remote"
    """On a web server, whose page cache has the files."""

    @property
    def words(self) -> str:
        return self.value.replace("-", " ")


FLOORS = "floors"
QUICKTHAW = "quickthaw"
FRESH = "quickthaw-fresh"
"""Lanes that are not peers; each is a process."""

_FLOOR_TITLES = {
    From.DISK: "floor: O_DIRECT",
    From.PAGE_CACHE: "floor: page cache copy",
    From.PINNED: "floor: memory copy",
    From.REMOTE: "floor: HTTP on loopback",
}
_GPU_FLOOR = "floor: host to device"


@dataclass(frozen=True, slots=True)
class Row:
    """`lane`: the process that runs it; `verify`: whether blocks are hashed (ours only)."""

    lane: str
    title: str
    start: From
    call: str
    verify: bool = True

    @property
    def key(self) -> str:
        """Its name in the results, for example `quickthaw/disk`."""
        return f"{self.lane}{'' if self.verify else '-unverified'}/{self.start}"

    @property
    def is_floor(self) -> bool:
        return self.lane == FLOORS

    @property
    def is_ours(self) -> bool:
        return self.lane in (QUICKTHAW, FRESH)

    @property
    def is_peer(self) -> bool:
        return not (self.is_floor or self.is_ours)


def floor_key(start: From) -> str:
    return f"{FLOORS}/{start}"


def ours_key(start: From) -> str:
    """The row that peers are compared with: as a worker runs, hashing on."""
    return f"{QUICKTHAW}/{start}"


def rows_for(starts: Sequence[From], peers: Sequence[Peer], device: str) -> list[Row]:
    found: list[Row] = []
    for start, title in _FLOOR_TITLES.items():
        # A page-cache load is also judged by the memory copy.
        if start not in starts and start is not From.PINNED:
            continue
        gpu = start is From.PINNED and device == "cuda"
        found.append(Row(FLOORS, _GPU_FLOOR if gpu else title, start, ""))
    for start in starts:
        found.append(Row(QUICKTHAW, "Quickthaw", start, "Loader.load"))
        if start is From.PINNED:
            continue  # nothing is read, nothing is hashed, and there is no other slab
        if start is From.REMOTE:
            # Most loaders read files only; those that know HTTP are asked for it.
            found += [Row(peer.name, peer.title, start, peer.call) for peer in peers if peer.http]
            continue
        found.append(
            Row(QUICKTHAW, "Quickthaw, unverified", start, "Loader.load(verify=False)", False)
        )
        found.append(Row(FRESH, "Quickthaw, fresh slab", start, "Slab(...), then Loader.load"))
        found += [Row(peer.name, peer.title, start, peer.call) for peer in peers]
    return found
