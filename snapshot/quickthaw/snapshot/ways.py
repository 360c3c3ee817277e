"""Choosing a component's way up: which bytes, through which memory, into which buffer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from quickthaw.snapshot.copiers import (
    MemorySource,
    Origin,
    Source,
    map_component,
    open_source,
)
from quickthaw.snapshot.device import Device, DeviceBuffer
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.slab import Slab, SlabFull
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tiers import Tier, Tiers
from quickthaw.wire.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class Way:
    """Where one component's bytes are and go. `close` gives back what was taken for the move."""

    component: Component
    origin: Tier
    copier: str | None
    why: str
    source: Source | None
    room: HostRange | None
    fresh: bool
    """`room` holds nothing yet that is in the pinned tier."""
    checked: bool
    """The bytes in `room` need no check."""
    buffer: DeviceBuffer | None
    held: ExitStack

    def close(self) -> None:
        self.held.close()


class Ways:
    """Finds memory and sources. The caller has claimed the components that it asks about.

    `retain_pinned`: whether what a load reads stays in the slab for the next one.
    """

    def __init__(
        self,
        store: SnapshotStore,
        device: Device,
        slab: Slab,
        tiers: Tiers,
        *,
        origins: Sequence[Origin],
        retain_pinned: bool,
    ) -> None:
        self._store = store
        self._device = device
        self._slab = slab
        self._tiers = tiers
        self._origins = tuple(origins)
        self._retain_pinned = retain_pinned

    def find(self, component: Component, to: Tier) -> Way:
        """Raises `ResourceExhausted`, or what opening a source raises; nothing stays taken then.

        A buffer goes to the tiers at once, so that modules can be bound to it.
        """
        with ExitStack() as held:
            way = self._find(component, to, held)
            if way.buffer is not None:
                self._tiers.put_buffer(component.digest, way.buffer)
            held.pop_all()
            return way

    def _find(self, component: Component, to: Tier, held: ExitStack) -> Way:
        digest = component.digest
        kept = ExitStack()
        held.callback(kept.close)
        if (pinned := self._tiers.retain_pinned(digest)) is not None:
            kept.callback(pinned.room.release)
            return Way(
                component=component,
                origin=Tier.PINNED,
                copier=None,
                why="",
                source=None,
                room=pinned.room,
                fresh=False,
                checked=pinned.checked,
                buffer=self._buffer(component, to, pinned.room),
                held=kept,
            )
        path = self._store.component_path(digest)
        if path.is_file() and (mapped := map_component(path, component, self._device)) is not None:
            kept.callback(mapped.release)
            return Way(
                component=component,
                origin=Tier.DISK,
                copier="mapped",
                why="its file is in memory",
                source=None,
                room=mapped,
                fresh=True,
                checked=False,
                buffer=self._buffer(component, to, mapped),
                held=kept,
            )
        source = self.open(component)
        kept.callback(source.close)
        if (room := self._room(component, to)) is not None:
            kept.callback(room.release)
        return Way(
            component=component,
            origin=source.tier,
            copier=source.name,
            why=source.why,
            source=source,
            room=room,
            fresh=True,
            checked=False,
            buffer=self._buffer(component, to, room),
            held=kept,
        )

    def open(self, component: Component) -> Source:
        """The component's own bytes, wherever they are fastest now."""
        path = self._store.component_path(component.digest)
        return open_source(path, component, self._origins, self._open_base)

    def _open_base(self, component: Component) -> Source:
        """What another component is built upon: from host memory where it is there."""
        digest = component.digest
        if self._tiers.knows(digest):
            if (pinned := self._tiers.retain_pinned(digest)) is not None:
                if pinned.checked:
                    view = pinned.room.view[: component.data_bytes]
                    return MemorySource(Tier.PINNED, view, pinned.room.release)
                pinned.room.release()
            self._tiers.hold(digest)  # so that the buffer stays until the source is closed
            buffer = self._tiers.arrived_buffer(digest)
            if buffer is not None and (memory := buffer.host_view) is not None:
                release = partial(self.let_go, digest)
                return MemorySource(Tier.VRAM, memory[: component.data_bytes], release)
            self.let_go(digest)
        return self.open(component)

    def let_go(self, digest: str) -> None:
        """One user less; a buffer that never arrived and nobody wants goes."""
        if (unwanted := self._tiers.release(digest)) is not None:
            unwanted.free()

    def _room(self, component: Component, to: Tier) -> HostRange | None:
        """A new range of the slab. A load goes without it if need be; pinning cannot."""
        existing = None if to is Tier.PINNED else self._tiers.buffer(component.digest)
        if existing is not None and existing.room is not None:
            existing.room.retain()  # a move that another gave up, into that very memory
            return existing.room
        if to is Tier.VRAM and (not self._retain_pinned or existing is not None):
            return None
        try:
            return self._slab.allocate(component.data_bytes)
        except SlabFull as error:
            if to is Tier.VRAM:
                return None
            raise ResourceExhausted(
                f"the slab has {self._slab.free_bytes} bytes free, not {component.data_bytes} in "
                f"one piece for component {component.name}; evict something first",
                metadata={"resource": "pinned", "wanted_bytes": str(component.data_bytes)},
            ) from error

    def _buffer(
        self, component: Component, to: Tier, room: HostRange | None
    ) -> DeviceBuffer | None:
        if to is not Tier.VRAM:
            return None
        if (existing := self._tiers.buffer(component.digest)) is not None:
            return existing
        nbytes = component.data_bytes
        wrapped = None if room is None else self._device.wrap(room, nbytes)
        return wrapped or self._device.allocate(nbytes)
