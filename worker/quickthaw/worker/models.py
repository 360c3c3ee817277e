"""The models on this worker's device: brings them up, keeps them, makes room for the next.

A loaded pipeline is kept after its request, so that the next one starts at once. It is let go when
its components are evicted: as the scheduler said in Assign, and beyond that the least recently used
first. What an attempt uses is never evicted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from quickthaw.snapshot import Device, LoadedModel, Loader, Manifest, Slab, SnapshotStore
from quickthaw.snapshot import Tier as StoreTier
from quickthaw.snapshot.compiled import Usage
from quickthaw.snapshot.cuda import current
from quickthaw.snapshot.plan import plan
from quickthaw.wire.errors import FailedPrecondition, ResourceExhausted
from quickthaw.worker.adapters import Adapters
from quickthaw.worker.ahead import Answers
from quickthaw.worker.arrivals import Arrivals
from quickthaw.worker.attempts import Assignment, LoadSummary, NoRoomYet, Tier
from quickthaw.worker.bringing import (
    TIER_OF,
    cannot_fit,
    component_digests,
    import_snapshot,
    is_held_here,
    other_family,
    out_of_memory,
    resident_summary,
    summary_of,
    withdrawn,
)
from quickthaw.worker.compiling import CompiledRuns
from quickthaw.worker.inputs import InputReader
from quickthaw.worker.making import reader_of
from quickthaw.worker.ports import RunStopped, StopSignal
from quickthaw.worker.prefetching import Promoting
from quickthaw.worker.rehearsal import encode
from quickthaw.worker.residency import LeastRecentlyUsed, Resident, make_room
from quickthaw.worker.turns import Turns

logger = logging.getLogger(__name__)

_STORE_TIER = {ours: theirs for theirs, ours in TIER_OF.items()}

_ROUNDING_BYTES = 4096
"""What a component may take beyond its bytes: buffers and slab ranges are rounded up."""


@dataclass(slots=True)
class _Model:
    loaded: LoadedModel
    users: set[str] = field(default_factory=set[str])  # attempt ids

    @property
    def digests(self) -> frozenset[str]:
        return component_digests(self.loaded.manifest)


class ModelHost:
    """Thread-safe. `load`, `unload` and `free_idle` exclude one another; the rest is quick.

    `on_evicted` is told the tier of each component that is evicted, from any thread.
    """

    def __init__(
        self,
        store: SnapshotStore,
        loader: Loader,
        device: Device,
        slab: Slab,
        *,
        verify: bool,
        on_evicted: Callable[[Tier], None],
        compiled: CompiledRuns | None = None,
        arrivals: Arrivals | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self._store = store
        self.adapters = adapters or Adapters(store)
        """Of requests."""
        self._compiled = compiled
        self._loader = loader
        self._device = device
        self._slab = slab
        self._verify = verify
        self._on_evicted = on_evicted
        self._moves = threading.RLock()
        self._lock = threading.Lock()  # guards what follows
        self._models: dict[str, _Model] = {}  # by snapshot digest
        self._readers: dict[str, InputReader] = {}
        self._answers: dict[str, Answers] = {}  # by attempt id
        self._order = LeastRecentlyUsed()
        self._turns = Turns()
        self._moved = True  # something came or went since `news` was asked
        self._withdrawn: set[str] = set()  # components that are not what their names say
        self.on_news: Callable[[], None] = lambda: None
        """Called, from any thread, when something came or went outside of a call."""
        self._arrivals = arrivals
        self.promoting = Promoting(
            store, loader, arrivals, verify=verify, on_moved=self._come_to_disk
        )
        if arrivals is not None:
            arrivals.on_disk, arrivals.withdraw = self._come_to_disk, self._withdraw

    # ---- what is where -------------------------------------------------------------------------

    def residents(self) -> list[Resident]:
        return [
            Resident(digest, TIER_OF[tier], line.nbytes)
            for digest, line in self._loader.residency().items()
            for tier in line.tiers
        ]

    def news(self) -> list[Resident] | None:
        """Everything that is resident, or None if nothing changed since the last call."""
        with self._lock:
            moved, self._moved = self._moved, False
        return self.residents() if moved else None

    def _note_move(self) -> None:
        with self._lock:
            self._moved = True

    def _come_to_disk(self) -> None:
        self._note_move()
        self.on_news()

    def _withdraw(self, digest: str) -> None:
        """Out of every tier as soon as nothing uses it, and into no other model ever again."""
        with self._moves:
            self._withdrawn.add(digest)
            self._drop_withdrawn()
        self.on_news()

    def _drop_withdrawn(self) -> None:
        for digest in self._withdrawn:
            for tier in (StoreTier.VRAM, StoreTier.PINNED):
                self._evict(digest, tier)

    def _in(self, tier: StoreTier) -> list[Resident]:
        return [line for line in self.residents() if line.tier is TIER_OF[tier]]

    def _in_use(self) -> frozenset[str]:
        with self._lock:
            used = [model.digests for model in self._models.values() if model.users]
        return frozenset[str]().union(*used)

    # ---- loading -------------------------------------------------------------------------------

    def prepare(self, digest: str) -> None:
        """Everything of a snapshot but its weights. Raises as `load` does."""
        self._loader.prepare(digest)

    def load(self, assignment: Assignment, stop: StopSignal) -> LoadSummary | NoRoomYet:
        """Brings the model up and takes it into use by the attempt, until `release`.

        Raises RunStopped, ModelCannotFit, InvalidArgument, NotFound, SnapshotInvalid,
        SnapshotCorrupt and ResourceExhausted.
        """
        self.promoting.give_way(assignment.snapshot_digest)
        with self._moves:
            if stop.is_set():
                raise RunStopped
            digest = assignment.snapshot_digest
            manifest = self._manifest(assignment)
            for unwanted in assignment.evict_digests:
                self._evict(unwanted, StoreTier.VRAM)
            summary = self._take_resident(digest, assignment.attempt_id)
            if summary is None:
                if not self._make_room(manifest):
                    if self._in_use():
                        return NoRoomYet()
                    raise cannot_fit(assignment.model, manifest, self._device.total_bytes)
                summary = self._bring_up(assignment)
            with self._lock:
                self._order.touch(component_digests(manifest))
            return summary

    def take_up(self, assignment: Assignment) -> LoadSummary | None:
        """As `load`, of a model that is up, also beside another's load; None, with nothing done,
        where that takes more. What is still to be evicted is left for when its turn comes."""
        there = self._in(StoreTier.VRAM) if assignment.evict_digests else []
        if any(line.digest in assignment.evict_digests for line in there):
            return None
        with self._lock:
            model = self._models.get(assignment.snapshot_digest)
            if model is None or not self._withdrawn.isdisjoint(model.digests):
                return None
            if assignment.family not in ("", model.loaded.manifest.family):
                return None
            model.users.add(assignment.attempt_id)
            self._order.touch(model.digests)
        return resident_summary(model.loaded.manifest)

    def _manifest(self, assignment: Assignment) -> Manifest:
        digest = assignment.snapshot_digest
        with self._lock:
            model = self._models.get(digest)
        if model is None and digest not in self._store:
            if self._arrivals is None or is_held_here(digest, assignment.snapshot_uri):
                import_snapshot(self._store, digest, assignment.snapshot_uri)
            else:
                self._arrivals.begin(assignment)
            self._note_move()
        manifest = model.loaded.manifest if model else self._loader.open(digest).manifest
        if found := self._withdrawn & component_digests(manifest):
            self._drop_withdrawn()
            raise withdrawn(min(found), assignment.model)
        if assignment.family and manifest.family != assignment.family:
            raise other_family(digest, manifest.family, assignment.family)
        return manifest

    def _take_resident(self, digest: str, attempt_id: str) -> LoadSummary | None:
        with self._lock:
            model = self._models.get(digest)
            if model is None:
                return None
            model.users.add(attempt_id)
        return resident_summary(model.loaded.manifest)

    def _bring_up(self, assignment: Assignment) -> LoadSummary:
        digest = assignment.snapshot_digest
        self._note_move()  # also if it fails: parts of it may have arrived
        try:
            loaded = self._load(assignment)
        except (ResourceExhausted, torch.OutOfMemoryError) as error:
            # Something else took the device's memory, or fragments of it are left.
            logger.warning("no memory for %s (%s); evicting all that is idle", digest[:12], error)
            self.free_idle()
            try:
                loaded = self._load(assignment)
            except torch.OutOfMemoryError as again:
                raise out_of_memory(f"loading {assignment.model}") from again
        with self._lock:
            self._models[digest] = _Model(loaded, {assignment.attempt_id})
        if self._arrivals is not None:
            self._arrivals.loaded(digest)
        return summary_of(loaded.report, self._answers.get(assignment.attempt_id))

    def _load(self, assignment: Assignment) -> LoadedModel:
        """Encodes the attempt's prompt while the rest of the model is still on its way."""
        digest = assignment.snapshot_digest
        loaded = self._loader.load(digest, verify=self._verify, overlap=True)
        try:
            if not loaded.manifest.adapters:
                with self._turns.of(component_digests(loaded.manifest), wait=False) as free:
                    answers = encode(loaded, self._reader(loaded), assignment) if free else None
                if answers is not None:
                    self._answers[assignment.attempt_id] = answers
            loaded.wait()
        except BaseException:
            self._answers.pop(assignment.attempt_id, None)
            loaded.release()
            raise
        return loaded

    # ---- room ----------------------------------------------------------------------------------

    def _make_room(self, manifest: Manifest, *, again: bool = True) -> bool:
        """Evicts from VRAM what must go for this load, and from the slab what is in its way."""
        wanted, in_use = component_digests(manifest), self._in_use()
        steps = plan(manifest, self._loader.residency())
        rounding = _ROUNDING_BYTES * len(wanted)
        # Working memory is an estimate: it is made room for where that can be done, but a load does
        # not fail for it.
        weights = steps.missing_bytes + (rounding if steps.missing_bytes else 0)
        comfortable = weights + manifest.working_set_bytes
        free = self._device.free_bytes
        vram = self._in(StoreTier.VRAM)
        room = make_room(comfortable, free, vram, in_use, wanted, self._order)
        if room.short_bytes > manifest.working_set_bytes:
            return False
        gone = [self._evict(digest, StoreTier.VRAM) for digest in room.evict]
        if not all(gone) and again:
            # One of them may have been taken into use meanwhile: others are idle.
            return self._make_room(manifest, again=False)
        from_disk = steps.bytes_from(StoreTier.DISK) + steps.bytes_from(StoreTier.REMOTE)
        if from_disk:
            needed = min(from_disk + rounding, self._slab.total_bytes)
            pinned = self._in(StoreTier.PINNED)
            # Where the device's memory is the host's, what is in both tiers is there once.
            both = self._in(StoreTier.VRAM) if self._device.kind == "cpu" else []
            kept = {line.digest for line in both}
            spare = make_room(needed, self._slab.free_bytes, pinned, kept, wanted, self._order)
            for digest in spare.evict:
                self._evict(digest, StoreTier.PINNED)
        return True

    def _evict(self, digest: str, tier: StoreTier) -> bool:
        """False if it is in use or not there."""
        if digest not in {line.digest for line in self._in(tier)}:
            return False
        if tier is StoreTier.VRAM and not self._let_go_of(digest):
            return False
        try:
            self._loader.evict(digest, tier)
        except FailedPrecondition as error:
            logger.info("not evicted: %s", error.message)
            return False
        if digest not in self._loader.residency():
            self._order.forget(digest)
        self._note_move()
        self._on_evicted(TIER_OF[tier])
        return True

    def _let_go_of(self, component: str) -> bool:
        """Drops the idle pipelines that contain a component: they hold its buffer. False, with
        nothing dropped, if one of them is in use."""
        with self._lock:
            having = [d for d, model in self._models.items() if component in model.digests]
            if any(self._models[digest].users for digest in having):
                return False
            models = [self._models.pop(digest) for digest in having]
        for model in models:
            model.loaded.release()
        return True

    def unload(self, digests: tuple[str, ...], tier: Tier) -> None:
        """Frees what of these is in the tier and not in use."""
        if tier in (Tier.VRAM, Tier.PINNED):
            with self._moves:
                for digest in digests:
                    self._evict(digest, _STORE_TIER[tier])

    def free_idle(self) -> None:
        """Evicts everything from VRAM that no attempt uses."""
        with self._moves:
            for line in self._in(StoreTier.VRAM):
                self._evict(line.digest, StoreTier.VRAM)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    # ---- use -----------------------------------------------------------------------------------

    def model_of(self, assignment: Assignment) -> tuple[LoadedModel, InputReader]:
        """The model that `load` took into use. Raises SnapshotInvalid for an unusable schema."""
        with self._lock:
            loaded = self._models[assignment.snapshot_digest].loaded
        return loaded, self._reader(loaded)

    def answers_of(self, attempt_id: str) -> Answers | None:
        """What was encoded for the attempt while its model was loaded, once."""
        return self._answers.pop(attempt_id, None)

    def _reader(self, loaded: LoadedModel) -> InputReader:
        with self._lock:
            reader = self._readers.get(loaded.digest)
        if reader is None:
            reader = reader_of(loaded.manifest.family, loaded.manifest.input_schema)
            with self._lock:
                self._readers[loaded.digest] = reader
        return reader

    def release(self, attempt_id: str) -> None:
        """The attempt no longer uses its model, which stays resident. Unknown ids are fine."""
        self._answers.pop(attempt_id, None)
        self.adapters.take(attempt_id)
        with self._lock:
            for model in self._models.values():
                model.users.discard(attempt_id)

    @contextmanager
    def running(self, manifest: Manifest) -> Iterator[None]:
        """One run at a time for each component: modules are shared and not re-entrant."""
        with self._turns.of(component_digests(manifest)), current(self._device.torch_device):
            yield

    def runs_that_fit(self, manifest: Manifest) -> int:
        """How many requests the memory that is free now has room to run at once; at least 1."""
        return max(1, self._device.free_bytes // max(manifest.working_set_bytes, 1))

    def compiled(self, loaded: LoadedModel) -> AbstractContextManager[Usage]:
        """Around one run: blocks run as compiled code where there is some. Adapters go inside."""
        return nullcontext(Usage()) if self._compiled is None else self._compiled.running(loaded)

    def close(self) -> None:
        """Lets go of every pipeline and of the pinned memory. Nothing may be running."""
        if self._compiled is not None:
            self._compiled.close()
        if self._arrivals is not None:
            self._arrivals.close()  # before the lock, which its thread may be waiting for
        with self._moves:
            with self._lock:
                models = list(self._models.values())
                self._models.clear()
            for model in models:
                model.loaded.release()
            self._loader.close()
            self._slab.close()  # memory that is unmapped while registered confuses the driver
