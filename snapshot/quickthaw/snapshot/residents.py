"""Moving components between tiers: up for a load or ahead of one, down for room."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from quickthaw.snapshot.copiers import MemorySource, Origin, Source, open_source
from quickthaw.snapshot.device import Device, DeviceBuffer
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.modules import Modules
from quickthaw.snapshot.report import ComponentReport
from quickthaw.snapshot.slab import Slab, SlabFull, SlabRange
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tiers import Residency, Tier, Tiers, in_use
from quickthaw.snapshot.transfer import Transfer, Transferred
from quickthaw.wire.errors import InvalidArgument, NotFound, ResourceExhausted

OnBytes = Callable[[int], None]
_ALREADY_THERE = Transferred(None, "", 0.0, 0.0, 0)


class Residents:
    """The components of one store on one device. Thread-safe: each component moves once at a time.

    `retain_pinned`: whether what a load reads from disk stays in the slab for the next one.
    """

    def __init__(
        self,
        store: SnapshotStore,
        device: Device,
        slab: Slab,
        modules: Modules,
        *,
        readers: int,
        retain_pinned: bool,
        origins: Sequence[Origin] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = store
        self._device = device
        self._slab = slab
        self._modules = modules
        self._retain_pinned = retain_pinned
        self._origins = tuple(origins)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="snapshot-reader")
        self._transfer = Transfer(slab, device, self._readers, readers, clock)
        self._tiers = Tiers()

    def close(self) -> None:
        self._readers.shutdown()

    def add(self, component: Component) -> None:
        on_disk = self._store.holds(component)
        self._tiers.add(component.digest, component.data_bytes, on_disk=on_disk)

    def residency(self) -> Mapping[str, Residency]:
        return self._tiers.residency()

    def hold(self, digest: str) -> None:
        self._tiers.hold(digest)

    def release(self, digest: str) -> None:
        self._tiers.release(digest)

    def buffer(self, digest: str) -> DeviceBuffer:
        """The VRAM buffer of a component that is held and was brought up."""
        buffer = self._tiers.buffer(digest)
        assert buffer is not None, "only held components are asked for"
        return buffer

    def bring_up(self, component: Component, *, verify: bool, on_bytes: OnBytes) -> ComponentReport:
        """Into VRAM, from the fastest tier that has it. The caller holds the component."""
        digest = component.digest
        with self._tiers.transfer_lock(digest):
            if self._tiers.buffer(digest) is not None:
                on_bytes(component.data_bytes)
                return _reported(component, Tier.VRAM, _ALREADY_THERE)
            buffer = self._device.allocate(component.data_bytes)
            try:
                if (pinned := self._tiers.retain_pinned(digest)) is not None:
                    source = Tier.PINNED
                    try:
                        moved = self._transfer.from_pinned(
                            pinned, component.data_bytes, buffer, on_bytes
                        )
                    finally:
                        pinned.release()
                else:
                    source, moved = self._read(component, buffer, verify=verify, on_bytes=on_bytes)
            except BaseException:
                buffer.free()
                raise
            self._tiers.put_buffer(digest, buffer)
        return _reported(component, source, moved)

    def _read(
        self, component: Component, buffer: DeviceBuffer | None, *, verify: bool, on_bytes: OnBytes
    ) -> tuple[Tier, Transferred]:
        room = self._room(component, required=buffer is None)
        try:
            source = self._open(component)
            try:
                moved = self._transfer.from_source(
                    component, source, room, buffer, verify=verify, on_bytes=on_bytes
                )
            finally:
                source.close()
        except BaseException:
            if room is not None:
                room.release()
            raise
        if room is not None:
            self._tiers.put_pinned(component.digest, room)
        return source.tier, moved

    def _open(self, component: Component) -> Source:
        path = self._store.component_path(component.digest)
        return open_source(path, component, self._origins, self._open_base)

    def _open_base(self, component: Component) -> Source:
        """What another component is built upon: from host memory where it is there."""
        digest = component.digest
        if self._tiers.knows(digest):
            if (pinned := self._tiers.retain_pinned(digest)) is not None:
                view = pinned.view[: component.data_bytes]
                return MemorySource(Tier.PINNED, view, pinned.release)
            self.hold(digest)  # so that the buffer stays until the source is closed
            buffer = self._tiers.buffer(digest)
            if buffer is not None and buffer.data.device.type == "cpu":
                view = buffer.data.numpy().data[: component.data_bytes]
                return MemorySource(Tier.VRAM, view, partial(self.release, digest))
            self.release(digest)
        return self._open(component)

    def _room(self, component: Component, *, required: bool) -> SlabRange | None:
        if not (required or self._retain_pinned):
            return None
        try:
            return self._slab.allocate(component.data_bytes)
        except SlabFull as error:
            if not required:
                return None  # streaming needs no room
            raise ResourceExhausted(
                f"the slab has {self._slab.free_bytes} bytes free, not {component.data_bytes} in "
                f"one piece for component {component.name}; evict something first",
                metadata={"resource": "pinned", "wanted_bytes": str(component.data_bytes)},
            ) from error

    def promote(
        self, component: Component, to: Tier, *, verify: bool, on_bytes: OnBytes
    ) -> ComponentReport:
        """Brings a component up ahead of a load; one that is there already is left alone."""
        match to:
            case Tier.VRAM:
                self.hold(component.digest)
                try:
                    return self.bring_up(component, verify=verify, on_bytes=on_bytes)
                finally:
                    self.release(component.digest)
            case Tier.PINNED:
                with self._tiers.transfer_lock(component.digest):
                    pinned = self._tiers.retain_pinned(component.digest)
                    if pinned is not None:
                        pinned.release()
                        on_bytes(component.data_bytes)
                        return _reported(component, Tier.PINNED, _ALREADY_THERE)
                    source, moved = self._read(component, None, verify=verify, on_bytes=on_bytes)
                    return _reported(component, source, moved)
            case _:
                raise InvalidArgument(f"a component cannot be promoted to {to.value}")

    def evict(self, digest: str, tier: Tier) -> int:
        """Frees a component's place in `tier`; returns the bytes freed, 0 if it was not there.

        Raises `FailedPrecondition` while a model uses it or it is on the move.
        """
        lock = self._tiers.transfer_lock(digest)
        if not lock.acquire(blocking=False):
            raise in_use(digest, tier, "it is being moved")
        try:
            match tier:
                case Tier.VRAM:
                    return self._evict_buffer(digest)
                case Tier.PINNED:
                    if (pinned := self._tiers.take_pinned(digest)) is None:
                        return 0
                    pinned.release()
                    return pinned.nbytes
                case _:
                    raise InvalidArgument(
                        f"only vram and pinned can be evicted, not {tier.value}; files go with "
                        "SnapshotStore.remove and gc"
                    )
        finally:
            lock.release()

    def _evict_buffer(self, digest: str) -> int:
        if (buffer := self._tiers.take_buffer(digest)) is None:
            return 0
        self._modules.forget(digest)
        buffer.free()
        return buffer.nbytes


def _reported(component: Component, source: Tier, moved: Transferred) -> ComponentReport:
    return ComponentReport(
        name=component.name,
        digest=component.digest,
        nbytes=component.data_bytes,
        source=source,
        copier=moved.copier,
        why=moved.why,
        read_seconds=moved.read_seconds,
        copy_seconds=moved.copy_seconds,
        read_bytes=moved.read_bytes,
    )


def unknown(digest: str) -> NotFound:
    return NotFound(f"no snapshot in the store has a component {digest[:80]!r}")
