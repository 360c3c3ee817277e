"""Moving components between tiers: up for a load or ahead of one, down for room."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from quickthaw.snapshot.copiers import Origin
from quickthaw.snapshot.device import Device, DeviceBuffer
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.loading import Loading, Wanted
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.modules import Modules
from quickthaw.snapshot.report import ComponentReport
from quickthaw.snapshot.slab import Slab
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tiers import Residency, Tier, Tiers
from quickthaw.snapshot.transfer import Transfer
from quickthaw.snapshot.ways import Ways
from quickthaw.wire.errors import InvalidArgument, NotFound

LOADS_AT_ONCE = 4
"""Loads beyond these wait for readers."""
OnBytes = Callable[[Component], Callable[[int], None]]


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
        self._slab = slab
        self._modules = modules
        # A slow load, from afar say, must not keep others from reading.
        self._readers = ThreadPoolExecutor(
            readers * LOADS_AT_ONCE, thread_name_prefix="snapshot-reader"
        )
        self._transfer = Transfer(slab, device, self._readers, readers, clock)
        self._tiers = Tiers()
        self._ways = Ways(
            store, device, slab, self._tiers, origins=origins, retain_pinned=retain_pinned
        )

    def close(self) -> None:
        self._readers.shutdown()

    def add(self, component: Component) -> None:
        on_disk = self._store.holds(component)
        self._tiers.add(component.digest, component.data_bytes, on_disk=on_disk)
        if (left := self._slab.claim(component.digest, component.data_bytes)) is not None:
            self._tiers.put_pinned(component.digest, left, checked=False)

    def residency(self) -> Mapping[str, Residency]:
        return self._tiers.residency()

    def hold(self, digest: str) -> None:
        self._tiers.hold(digest)

    def release(self, digest: str) -> None:
        if (unwanted := self._tiers.release(digest)) is not None:
            self._modules.forget(digest)
            unwanted.free()

    def placed(self, digest: str) -> bool:
        """Whether a component that is held has its buffer, so that modules can be bound to it."""
        return self._tiers.buffer(digest) is not None

    def buffer(self, digest: str) -> DeviceBuffer:
        """The VRAM buffer of a component that is held and was brought up, or is on its way."""
        buffer = self._tiers.buffer(digest)
        assert buffer is not None, "only held components are asked for"
        return buffer

    def pinned(self, digest: str) -> HostRange | None:
        """See `Loader.pinned`."""
        while self._tiers.knows(digest):
            if (pinned := self._tiers.retain_pinned(digest)) is not None:
                if pinned.checked:
                    return pinned.room
                pinned.room.release()
            if (over := self._tiers.moving(digest)) is None:
                break
            over.wait()
        return None

    def bring_up(
        self, components: Sequence[Component], *, verify: bool, on_bytes: OnBytes
    ) -> Loading:
        """Begins to bring components into VRAM, each from the fastest tier that has it.

        The caller holds them until after `Loading.finish`. Raises as that does.
        """
        return self._begin(components, Tier.VRAM, verify, on_bytes)

    def _begin(
        self, components: Sequence[Component], to: Tier, verify: bool, on_bytes: OnBytes
    ) -> Loading:
        wanted = Wanted(tuple(components), to, verify, on_bytes)
        loading = Loading(wanted, self._tiers, self._ways, self._transfer)
        loading.begin()
        return loading

    def promote(
        self,
        component: Component,
        to: Tier,
        *,
        verify: bool,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> ComponentReport:
        """Brings a component up ahead of a load; one that is there already is left alone."""
        if to not in (Tier.VRAM, Tier.PINNED):
            raise InvalidArgument(f"a component cannot be promoted to {to.value}")
        self.hold(component.digest)
        try:
            (report,) = self._begin((component,), to, verify, lambda _: on_bytes).finish()
            return report
        finally:
            self.release(component.digest)

    def evict(self, digest: str, tier: Tier) -> int:
        """Frees a component's place in `tier`; returns the bytes freed, 0 if it was not there.

        Raises `FailedPrecondition` while a model uses it or it is on the move.
        """
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

    def _evict_buffer(self, digest: str) -> int:
        if (buffer := self._tiers.take_buffer(digest)) is None:
            return 0
        self._modules.forget(digest)
        buffer.free()
        return buffer.nbytes


def unknown(digest: str) -> NotFound:
    return NotFound(f"no snapshot in the store has a component {digest[:80]!r}")
