"""The load path: from a manifest's digest to a pipeline that runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from quickthaw.snapshot.adapters import Overlay, overlay_of
from quickthaw.snapshot.arrival import Arrival
from quickthaw.snapshot.claims import check_agreement
from quickthaw.snapshot.copiers import Origin
from quickthaw.snapshot.delta import DeltaOrigin
from quickthaw.snapshot.device import Device
from quickthaw.snapshot.gates import Gate, guard
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.loaded import LoadedModel
from quickthaw.snapshot.loading import Loading
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.modules import Modules
from quickthaw.snapshot.pipelines import build_pipeline
from quickthaw.snapshot.plan import LoadPlan, plan
from quickthaw.snapshot.prepared import Prepared, Ready
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.report import ComponentReport, LoadProgress, LoadReport
from quickthaw.snapshot.residents import Residents, unknown
from quickthaw.snapshot.slab import Slab
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tensors import views
from quickthaw.snapshot.tiers import Residency, Tier
from quickthaw.wire.errors import QuickthawError

OnProgress = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True)
class _Assembled:
    """A pipeline, and the gates of what has not arrived, by component name and in load order."""

    pipeline: Any
    overlay: Overlay
    gates: dict[str, Gate]
    guarded: list[tuple[nn.Module, Gate]]
    bind_seconds: float
    pipeline_seconds: float


class Loader:
    """Loads the snapshots of one store onto one device. Thread-safe.

    `readers`: at most so many threads read, check and copy for one load. `retain_pinned`: whether
    what is read from disk stays in the slab for the next load. A component that finds no room there
    streams through, so the slab may be smaller than a model. `origins`: where components come from
    whose file is not on this machine, the first that has one wins. Nothing is ever evicted
    unasked: a load that lacks VRAM raises `ResourceExhausted`. `prepared`: what was made ahead for
    the same store, in this process or in the one that it was forked from.
    """

    def __init__(
        self,
        store: SnapshotStore,
        device: Device,
        slab: Slab,
        *,
        readers: int = 16,
        retain_pinned: bool = True,
        origins: Sequence[Origin] = (),
        prepared: Prepared | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = store
        self._origins = (DeltaOrigin(store, alone=not origins), *origins)
        self._clock = clock
        self._torch_device = device.torch_device
        self._prepared = Prepared(store, clock=clock) if prepared is None else prepared
        self._modules = Modules(self._prepared.skeletons)
        self._residents = Residents(
            store,
            device,
            slab,
            self._modules,
            readers=readers,
            retain_pinned=retain_pinned,
            origins=self._origins,
            clock=clock,
        )
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._components: dict[str, Component] = {}
        self.refresh()

    def close(self) -> None:
        """Stops the reader threads. Loaded models stay usable."""
        self._residents.close()

    def refresh(self) -> None:
        """Learns of snapshots added to the store since; `load` does so for its own by itself.

        Broken ones are passed over here: `load` and `verify` say what is wrong with them.
        """
        for digest in self._store:
            try:
                self.open(digest)
            except QuickthawError:
                continue

    def open(self, digest: str) -> Snapshot:
        """The snapshot with that digest, its manifest parsed and checked once."""
        with self._lock:
            snapshot = self._prepared.open(digest)
            if digest in self._known:
                return snapshot
            said = {part.digest: part for part in snapshot.manifest.components}
            for part in snapshot.manifest.components:
                check_agreement(self._components.get(part.digest, said[part.digest]), part)
            for part in snapshot.manifest.components:
                self._components.setdefault(part.digest, part)
                self._residents.add(part)
            self._known.add(digest)
            return snapshot

    def adopt(self, snapshot: Snapshot) -> Snapshot:
        """Makes a snapshot loadable that is not in the store yet, from the loader's origins."""
        self._prepared.adopt(snapshot)
        return self.open(snapshot.digest)

    def landed(self, part: Component) -> None:
        """A component's file has come to the store, or gone, by other hands than the loader's."""
        self._residents.add(part)

    def pinned(self, digest: str) -> HostRange | None:
        """A component's pinned bytes with one more holder, for the caller to release; None
        if it is not there. One that is on its way is waited for."""
        return self._residents.pinned(digest)

    def prepare(self, digest: str) -> None:
        """Does everything but moving bytes, so that a later `load` does little else."""
        self._ready(digest)

    def plan(self, digest: str) -> LoadPlan:
        """What `load` would move now."""
        return plan(self.open(digest).manifest, self.residency())

    def residency(self) -> Mapping[str, Residency]:
        """Where each component of the store's snapshots is, by component digest."""
        return self._residents.residency()

    def load(
        self,
        digest: str,
        *,
        verify: bool = True,
        overlap: bool = False,
        on_progress: OnProgress | None = None,
    ) -> LoadedModel:
        """Brings a snapshot into VRAM and builds its pipeline; several loads may run at once.

        Blocks until everything is there, or with `overlap` until the first component is: the model
        can be run then, and waits where it meets weights that have not arrived. Memory is found for
        all of it before anything moves. `verify` checks each block that is read against the
        manifest. `on_progress` is called from reader threads, one call at a time; raising in it
        gives the load up. Raises `NotFound`, `SnapshotInvalid`, `SnapshotCorrupt` (naming
        component, block and offset) or `ResourceExhausted`; whatever it raises, nothing stays held.
        """
        began = self._clock()
        ready = self._ready(digest)
        manifest = ready.snapshot.manifest
        progress = _Progress(sum(part.data_bytes for part in manifest.components), on_progress)
        with ExitStack() as held:
            for part in manifest.components:
                self._residents.hold(part.digest)
                held.callback(self._residents.release, part.digest)
            bytes_began = self._clock()
            loading = self._residents.bring_up(
                manifest.components, verify=verify, on_bytes=lambda part: progress.of(part.name)
            )
            if not all(self._residents.placed(part.digest) for part in manifest.components):
                overlap = False  # another load has a part in hand, and no buffer for it yet
                moved = loading.finish()
            else:
                moved = None
            try:
                made = self._assemble(ready, loading, held)
                guards = [guard(*pair) for pair in made.guarded] if overlap else []
            except BaseException as error:
                loading.abandon(error)
                raise

            def report_of(moved: tuple[ComponentReport, ...]) -> LoadReport:
                ended = self._clock()
                return LoadReport(
                    components=moved,
                    manifest_seconds=ready.manifest_seconds,
                    skeleton_seconds=ready.skeleton_seconds,
                    tokenizer_seconds=ready.tokenizer_seconds,
                    bytes_seconds=ended - bytes_began,
                    bind_seconds=made.bind_seconds,
                    pipeline_seconds=made.pipeline_seconds,
                    total_seconds=ended - began,
                )

            if overlap and made.gates:
                report: LoadReport | Arrival = Arrival(
                    loading, guards, report_of, until=next(iter(made.gates.values()))
                )
            else:
                report = report_of(moved or loading.finish())
            release = held.pop_all().close
            return LoadedModel(
                made.pipeline, ready.snapshot, report, release, made.overlay, made.gates
            )

    def _assemble(self, ready: Ready, loading: Loading, held: ExitStack) -> _Assembled:
        """The pipeline over buffers whose bytes may still be on their way."""
        began = self._clock()
        manifest = ready.snapshot.manifest
        modules: dict[str, Any] = {}
        for part in manifest.modules:
            buffer = self._residents.buffer(part.digest)
            modules[part.name] = self._modules.acquire(part, ready.headers[part.digest], buffer)
            held.callback(self._modules.release, part)
        overlay = overlay_of(manifest.adapters, partial(self._tensors, ready), modules)
        bound = self._clock()
        pipeline = build_pipeline(manifest, modules, ready.processors)
        gates = {
            part.name: gate
            for part in manifest.components
            if (gate := loading.gate(part.digest)) is not None
        }
        return _Assembled(
            pipeline,
            overlay,
            gates=gates,
            guarded=[(module, gates[name]) for name, module in modules.items() if name in gates],
            bind_seconds=bound - began,
            pipeline_seconds=self._clock() - bound,
        )

    def _tensors(self, ready: Ready, part: Component) -> Mapping[str, torch.Tensor]:
        return views(self._residents.buffer(part.digest).data, ready.headers[part.digest])

    def promote(
        self,
        digest: str,
        to: Tier = Tier.PINNED,
        *,
        verify: bool = True,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> ComponentReport:
        """Brings one component (by component digest) to `to`, vram or pinned, ahead of a load.

        `on_bytes` is called from reader threads with the bytes of each span; raising in it gives
        the promotion up.
        Raises `ResourceExhausted` if there is no room: a prefetch never pushes anything out.
        """
        part = self.component(digest)
        return self._residents.promote(part, to, verify=verify, on_bytes=on_bytes)

    def evict(self, digest: str, tier: Tier) -> int:
        """Frees one component's (by component digest) place in `tier`, vram or pinned.

        Returns the bytes freed, 0 if it was not there. Raises `FailedPrecondition` while a loaded
        model uses it or it is being moved.
        """
        self.component(digest)
        return self._residents.evict(digest, tier)

    def component(self, digest: str) -> Component:
        """What a manifest says of a component. Raises `NotFound`."""
        if digest not in self._components:
            self.refresh()
        if (part := self._components.get(digest)) is None:
            raise unknown(digest)
        return part

    def _ready(self, digest: str) -> Ready:
        ready = self._prepared.ready(
            digest, self._torch_device, bound=self._modules.has, origins=self._origins
        )
        self.open(digest)
        return ready


class _Progress:
    """Adds up bytes from several threads and calls back one at a time."""

    def __init__(self, total_bytes: int, callback: OnProgress | None) -> None:
        self._total_bytes = total_bytes
        self._loaded_bytes = 0
        self._callback = callback
        self._lock = threading.Lock()

    def of(self, component: str) -> Callable[[int], None]:
        def on_bytes(count: int) -> None:
            with self._lock:
                self._loaded_bytes += count
                if self._callback is not None:
                    self._callback(LoadProgress(component, self._loaded_bytes, self._total_bytes))

        return on_bytes
