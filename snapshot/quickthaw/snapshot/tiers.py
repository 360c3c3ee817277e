"""What is where: the components on this machine, by tier, with a count of their users.

Holds and frees; what to load or evict is decided by whoever owns the loader. A component's weights
never change, so eviction is a free, never a copy back.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from quickthaw.snapshot.slab import SlabRange
from quickthaw.wire.errors import FailedPrecondition

if TYPE_CHECKING:  # so that the words of this module cost no tensor library
    from quickthaw.snapshot.device import DeviceBuffer


class Tier(StrEnum):
    """From fast to slow. A component may be in several at once."""

    VRAM = "vram"
    PINNED = "pinned"
    DISK = "disk"
    REMOTE = "remote"
    """Not on this machine: a remote store would have to bring it first."""


@dataclass(frozen=True, slots=True)
class Residency:
    """One component's places. `users` counts the loaded models that run on it."""

    tiers: frozenset[Tier]
    nbytes: int
    users: int


@dataclass(slots=True)
class _Entry:
    nbytes: int
    on_disk: bool = False
    users: int = 0
    pinned: SlabRange | None = None
    buffer: DeviceBuffer | None = None
    transfer: threading.Lock = field(default_factory=threading.Lock)

    @property
    def tiers(self) -> frozenset[Tier]:
        places = {
            Tier.VRAM: self.buffer is not None,
            Tier.PINNED: self.pinned is not None,
            Tier.DISK: self.on_disk,
        }
        return frozenset(tier for tier, present in places.items() if present)


class Tiers:
    """Keyed by component digest. Thread-safe; owns the ranges and buffers it is given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def add(self, digest: str, nbytes: int, *, on_disk: bool) -> None:
        """Makes a component known."""
        with self._lock:
            entry = self._entries.setdefault(digest, _Entry(nbytes))
            entry.on_disk = on_disk

    def knows(self, digest: str) -> bool:
        with self._lock:
            return digest in self._entries

    def transfer_lock(self, digest: str) -> threading.Lock:
        """Held while a component moves, so that it moves once however many models want it."""
        return self._entries[digest].transfer

    def hold(self, digest: str) -> None:
        """One more user: VRAM will not be evicted, not even while the load is under way."""
        with self._lock:
            self._entries[digest].users += 1

    def release(self, digest: str) -> int:
        """One user less; returns how many remain."""
        with self._lock:
            entry = self._entries[digest]
            entry.users -= 1
            return entry.users

    def users(self, digest: str) -> int:
        with self._lock:
            return self._entries[digest].users

    def buffer(self, digest: str) -> DeviceBuffer | None:
        with self._lock:
            return self._entries[digest].buffer

    def retain_pinned(self, digest: str) -> SlabRange | None:
        """The component's slab range with one more holder, for the caller to release; or None."""
        with self._lock:
            pinned = self._entries[digest].pinned
            if pinned is not None:
                pinned.retain()
            return pinned

    def put_buffer(self, digest: str, buffer: DeviceBuffer) -> None:
        with self._lock:
            self._entries[digest].buffer = buffer

    def put_pinned(self, digest: str, pinned: SlabRange) -> None:
        with self._lock:
            self._entries[digest].pinned = pinned

    def take_pinned(self, digest: str) -> SlabRange | None:
        """Removes and returns the range, which the caller then releases.

        Raises `FailedPrecondition` while a copy reads from it.
        """
        with self._lock:
            entry = self._entries[digest]
            if entry.pinned is not None and entry.pinned.shared:
                raise in_use(digest, Tier.PINNED, "a copy is reading from it")
            pinned, entry.pinned = entry.pinned, None
            return pinned

    def take_buffer(self, digest: str) -> DeviceBuffer | None:
        """Removes and returns the buffer, which the caller then frees.

        Raises `FailedPrecondition` while a model uses it.
        """
        with self._lock:
            entry = self._entries[digest]
            if entry.users:
                raise in_use(digest, Tier.VRAM, f"{entry.users} loaded models use it")
            buffer, entry.buffer = entry.buffer, None
            return buffer

    def residency(self) -> Mapping[str, Residency]:
        """A copy; safe to keep."""
        with self._lock:
            return {
                digest: Residency(entry.tiers, entry.nbytes, entry.users)
                for digest, entry in self._entries.items()
            }


def in_use(digest: str, tier: Tier, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"component {digest[:12]} cannot leave {tier.value}: {why}; release it first",
        metadata={"digest": digest, "tier": tier.value},
    )
