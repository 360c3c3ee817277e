"""What is where: the components on this machine, by tier, with a count of their users.

Holds and frees; what to load or evict is decided by whoever owns the loader. A component's weights
never change, so eviction is a free, never a copy back.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING

from quickthaw.snapshot.gates import Gate
from quickthaw.wire.errors import FailedPrecondition

if TYPE_CHECKING:  # so that the words of this module cost no tensor library
    from quickthaw.snapshot.device import DeviceBuffer
    from quickthaw.snapshot.host_range import HostRange


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


class Claim(Enum):
    """What somebody who wants a component in a tier finds."""

    THERE = auto()
    MINE = auto()
    """It is the caller's to move, until `end_move`."""
    BUSY = auto()
    """Another moves it; look again when that is over."""


@dataclass(slots=True)
class _Entry:
    nbytes: int
    on_disk: bool = False
    users: int = 0
    pinned: HostRange | None = None
    checked: bool = True  # the pinned bytes; false for what another process left
    buffer: DeviceBuffer | None = None
    arrived: bool = False  # the buffer's bytes
    gate: Gate | None = None  # until they have
    moving: threading.Event | None = None  # set when the move is over

    @property
    def tiers(self) -> frozenset[Tier]:
        places = {
            Tier.VRAM: self.arrived,
            Tier.PINNED: self.pinned is not None,
            Tier.DISK: self.on_disk,
        }
        return frozenset(tier for tier, present in places.items() if present)

    @property
    def shares_memory(self) -> bool:
        """Whether the buffer is the pinned range."""
        return (
            self.buffer is not None
            and self.pinned is not None
            and (self.buffer.room is self.pinned)
        )


@dataclass(frozen=True, slots=True)
class Pinned:
    """A component's range, with one more holder: the caller, who releases it."""

    room: HostRange
    checked: bool


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

    # ---- moves ---------------------------------------------------------------------------------

    def claim(self, digest: str, to: Tier) -> tuple[Claim, threading.Event]:
        """The right to move a component to `to`, so that it moves once however many want it.

        With BUSY the event is set when the other's move is over, however it ends.
        """
        with self._lock:
            entry = self._entries[digest]
            if to in entry.tiers:
                return Claim.THERE, threading.Event()
            if entry.moving is not None:
                return Claim.BUSY, entry.moving
            entry.moving = threading.Event()
            return Claim.MINE, entry.moving

    def end_move(self, digest: str) -> DeviceBuffer | None:
        """The move is over, done or not. Returns a buffer that nobody wants, to be freed."""
        with self._lock:
            entry = self._entries[digest]
            assert entry.moving is not None, "only who claimed a component ends its move"
            entry.moving.set()
            entry.moving = None
            return self._unwanted(entry)

    def moving(self, digest: str) -> threading.Event | None:
        """Set when the move that is under way is over; None if there is none."""
        with self._lock:
            return self._entries[digest].moving

    # ---- users ---------------------------------------------------------------------------------

    def hold(self, digest: str) -> None:
        """One more user: VRAM will not be evicted, not even while the load is under way."""
        with self._lock:
            self._entries[digest].users += 1

    def release(self, digest: str) -> DeviceBuffer | None:
        """One user less. Returns a buffer that never arrived and nobody wants, to be freed."""
        with self._lock:
            entry = self._entries[digest]
            entry.users -= 1
            return self._unwanted(entry)

    @staticmethod
    def _unwanted(entry: _Entry) -> DeviceBuffer | None:
        if entry.arrived or entry.users or entry.moving is not None:
            return None
        buffer, entry.buffer, entry.gate = entry.buffer, None, None
        return buffer

    # ---- places --------------------------------------------------------------------------------

    def buffer(self, digest: str) -> DeviceBuffer | None:
        """Its buffer, whose bytes may be on their way."""
        with self._lock:
            return self._entries[digest].buffer

    def arrived_buffer(self, digest: str) -> DeviceBuffer | None:
        with self._lock:
            entry = self._entries[digest]
            return entry.buffer if entry.arrived else None

    def gate_of(self, digest: str) -> Gate:
        """What to wait at before the buffer's bytes may be used."""
        with self._lock:
            entry = self._entries[digest]
            if entry.gate is None:
                entry.gate = Gate()
            return entry.gate

    def put_buffer(self, digest: str, buffer: DeviceBuffer) -> None:
        """A buffer to be filled, for the component that the caller moves."""
        with self._lock:
            entry = self._entries[digest]
            entry.buffer, entry.arrived = buffer, False

    def set_arrived(self, digest: str) -> None:
        with self._lock:
            entry = self._entries[digest]
            entry.arrived, entry.gate = True, None

    def retain_pinned(self, digest: str) -> Pinned | None:
        """The component's host range, if it has one, with one more holder for the caller."""
        with self._lock:
            entry = self._entries[digest]
            if entry.pinned is None:
                return None
            entry.pinned.retain()
            return Pinned(entry.pinned, entry.checked)

    def put_pinned(self, digest: str, pinned: HostRange, *, checked: bool) -> None:
        with self._lock:
            entry = self._entries[digest]
            entry.pinned, entry.checked = pinned, checked

    def set_checked(self, digest: str) -> None:
        with self._lock:
            self._entries[digest].checked = True

    def drop_pinned(self, digest: str) -> HostRange | None:
        """Removes and returns a range whose bytes are wrong, which the caller then releases."""
        with self._lock:
            entry = self._entries[digest]
            pinned, entry.pinned = entry.pinned, None
            return pinned

    def take_pinned(self, digest: str) -> HostRange | None:
        """Removes and returns the range, which the caller then releases.

        Raises `FailedPrecondition` while a copy reads from it, or if the device's buffer is that
        very memory.
        """
        with self._lock:
            entry = self._entries[digest]
            if entry.moving is not None:
                raise in_use(digest, Tier.PINNED, "it is being moved")
            if entry.shares_memory:
                raise in_use(digest, Tier.PINNED, "on this device it is the vram tier's memory")
            if entry.pinned is not None and entry.pinned.shared:
                raise in_use(digest, Tier.PINNED, "somebody is reading from it")
            pinned, entry.pinned = entry.pinned, None
            return pinned

    def take_buffer(self, digest: str) -> DeviceBuffer | None:
        """Removes and returns the buffer, which the caller then frees.

        Raises `FailedPrecondition` while a model uses it.
        """
        with self._lock:
            entry = self._entries[digest]
            if entry.moving is not None and not entry.arrived:
                raise in_use(digest, Tier.VRAM, "it is being moved")
            if entry.users:
                raise in_use(digest, Tier.VRAM, f"{entry.users} loaded models use it")
            buffer, entry.buffer, entry.arrived = entry.buffer, None, False
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
