"""Whatever happens, in whatever order: memory, leases, ends and bills of the whole core.

`Scenario` checks after every event that no worker is over-committed or holds too much, that no
attempt is on two workers, that every request is in exactly one place, ends at most once, and is
billed once for each attempt, by the rules. The machine here makes the events.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from quickthaw.scheduler.core.commands import SendAssign, SendPrefetch, SendUnload, SendWelcome
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    AttemptLoading,
    AttemptReport,
    AttemptRunning,
    CancelRequested,
    CordonRequested,
    DrainRequested,
    EndpointChanged,
    Event,
    RequestJournalled,
    ResidencyChanged,
    Tick,
    UncordonRequested,
    WorkerDisconnected,
    WorkerGoodbye,
    WorkerHeartbeat,
    WorkerHello,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    Digest,
    EndpointSettings,
    ModelSpec,
    Outcome,
    Priority,
    RequestId,
    Residency,
    Tier,
    WorkerId,
)
from quickthaw.scheduler.core.settings import CoreSettings, SupplyPolicy
from support.core_builders import Scenario, a_component, a_job, a_model, a_worker, of_kind

SHARED = a_component("text", gib=2)
MODELS = [
    a_model(n, gib=g, shared=(SHARED,)) for n, g in zip("klmno", (3, 5, 9, 14, 24), strict=True)
]
WORKERS = [WorkerId(name) for name in ("w1", "w2", "w3")]
SIZES_GIB = dict(zip(WORKERS, (14, 22, 40), strict=True))
CONCURRENCY = dict(zip(WORKERS, (1, 1, 2), strict=True))


class Truth:
    """What a worker really has."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.vram: dict[Digest, int] = {}
        self.coming: dict[Digest, int] = {}  # by a prefetch
        self.unloading: list[Digest] = []
        self.assigned: dict[AttemptId, SendAssign] = {}
        self.running: set[AttemptId] = set()


class CoreMachine(RuleBasedStateMachine):
    @initialize(max_attempts=st.integers(1, 3), supply_ms=st.sampled_from([0, 500]))
    def begin(self, max_attempts: int, supply_ms: int) -> None:
        supply = SupplyPolicy(interval_ms=supply_ms, keep_alive_ms=1_000, prefetch_ms_max=4_000)
        self.scenario = Scenario(
            CoreSettings(max_attempts=max_attempts, lease_ms=5_000, bypass_max=3, supply=supply)
        )
        self.truth = {worker_id: Truth() for worker_id in WORKERS}
        self.requests: list[RequestId] = []

    def feed(self, event: Event, *, after_ms: int = 0) -> None:
        commands = self.scenario.feed(event, after_ms=after_ms)
        for command in commands:
            # In order: a prefetch that is sent before an Assign is given up for it.
            if isinstance(command, SendAssign):
                self._assigned(command)
            elif isinstance(command, SendPrefetch):
                truth, sizes = self.truth[command.worker_id], command.model.sizes
                assert not truth.assigned, "a worker that has something to do is to prefetch"
                truth.coming = {digest: sizes[digest] for digest in command.digests}
        for unload in of_kind(commands, SendUnload):
            self.truth[unload.worker_id].unloading += unload.digests
        for welcome in of_kind(commands, SendWelcome):
            for attempt_id in welcome.revoked_attempt_ids:
                self.truth[welcome.worker_id].assigned.pop(attempt_id, None)

    def _assigned(self, assign: SendAssign) -> None:
        truth = self.truth[assign.worker_id]
        holder = [t for t in self.truth.values() if assign.attempt_id in t.assigned]
        assert holder in ([], [truth]), "one attempt went to two workers"
        truth.assigned[assign.attempt_id] = assign
        worker = self.scenario.machine.worker(assign.worker_id)
        assert worker is not None
        in_use = {digest for held in worker.held.values() for digest in held.model.sizes}
        assert in_use.isdisjoint(assign.evict_digests), "what an open attempt uses must go"

    # ---- callers -----------------------------------------------------------------------------

    @rule(
        model=st.sampled_from(MODELS),
        tenant=st.sampled_from("ab"),
        priority=st.sampled_from(Priority),
        deadline_in_ms=st.sampled_from([0, 0, 0, 4_000]),
        hint=st.sampled_from(["", "", *WORKERS]),
    )
    def submit(
        self, model: object, tenant: str, priority: Priority, deadline_in_ms: int, hint: str
    ) -> None:
        request_id = f"req_{len(self.requests)}"
        now_ms = self.scenario.now_ms
        job = a_job(
            request_id,
            next(known for known in MODELS if known is model),
            tenant=tenant,
            submitted_ms=now_ms,
            priority=priority,
            deadline_ms=now_ms + deadline_in_ms if deadline_in_ms else 0,
            worker_hint=hint,
        )
        self.requests.append(job.request_id)
        self.feed(RequestJournalled(job))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.feed(CancelRequested(data.draw(st.sampled_from(self.requests))))

    @rule(span_ms=st.sampled_from([1, 700, 4_999, 5_000]))
    def wait(self, span_ms: int) -> None:
        self.feed(Tick(), after_ms=span_ms)

    # ---- workers -----------------------------------------------------------------------------

    @rule(worker_id=st.sampled_from(WORKERS), fresh=st.booleans())
    def hello(self, worker_id: WorkerId, fresh: bool) -> None:
        truth = self.truth[worker_id]
        if fresh:
            number = truth.incarnation + 1
            truth = self.truth[worker_id] = Truth()
            truth.incarnation = number
        spec = a_worker(
            worker_id,
            free_gib=SIZES_GIB[worker_id],
            incarnation=str(truth.incarnation),
            concurrency=CONCURRENCY[worker_id],
        )
        held = tuple(Residency(d, Tier.VRAM, size) for d, size in truth.vram.items())
        self.feed(WorkerHello(spec, held, self._reports(truth)))

    @rule(worker_id=st.sampled_from(WORKERS))
    def disconnect(self, worker_id: WorkerId) -> None:
        self.feed(WorkerDisconnected(worker_id))

    @rule(worker_id=st.sampled_from(WORKERS))
    def goodbye(self, worker_id: WorkerId) -> None:
        self.feed(WorkerGoodbye(worker_id))
        self.truth[worker_id].assigned.clear()

    @rule(worker_id=st.sampled_from(WORKERS))
    def heartbeat(self, worker_id: WorkerId) -> None:
        self.feed(WorkerHeartbeat(worker_id, 1, self._reports(self.truth[worker_id])))

    @rule(model=st.sampled_from(MODELS), copies=st.integers(0, 2), keep_ms=st.sampled_from([0, 1]))
    def serve(self, model: ModelSpec, copies: int, keep_ms: int) -> None:
        wanted = EndpointSettings(min_replicas=copies, keep_alive_ms=keep_ms)
        self.feed(EndpointChanged(model.id, wanted, model))

    @rule(worker_id=st.sampled_from(WORKERS), pinned=st.booleans())
    def prefetched(self, worker_id: WorkerId, pinned: bool) -> None:
        """One component has come, perhaps while an Assign is on its way to the worker."""
        truth = self.truth[worker_id]
        if not truth.coming:
            return
        digest, size = truth.coming.popitem()
        vram_bytes = a_worker(worker_id, free_gib=SIZES_GIB[worker_id]).vram_bytes
        if digest in truth.vram or sum(truth.vram.values()) + size > vram_bytes:
            return
        truth.vram[digest] = size
        tiers = (Tier.VRAM, Tier.PINNED) if pinned else (Tier.VRAM,)
        self.feed(
            ResidencyChanged(worker_id, tuple(Residency(digest, tier, size) for tier in tiers))
        )

    @rule(worker_id=st.sampled_from(WORKERS))
    def unloaded(self, worker_id: WorkerId) -> None:
        truth = self.truth[worker_id]
        gone = [digest for digest in truth.unloading if digest in truth.vram]
        truth.unloading.clear()
        removed = tuple(Residency(d, Tier.VRAM, truth.vram.pop(d)) for d in gone)
        self.feed(ResidencyChanged(worker_id, (), removed))

    @rule(
        event=st.sampled_from([CordonRequested, UncordonRequested, DrainRequested]),
        worker_id=st.sampled_from(WORKERS),
    )
    def operate(
        self,
        event: type[CordonRequested] | type[UncordonRequested] | type[DrainRequested],
        worker_id: WorkerId,
    ) -> None:
        self.feed(event(worker_id))

    # ---- attempts ----------------------------------------------------------------------------

    def _pick(self, data: st.DataObject) -> tuple[Truth, SendAssign] | None:
        """Any attempt that a worker believes to have; what the core makes of it is its affair."""
        known = [(t, a) for t in self.truth.values() for a in t.assigned.values()]
        return data.draw(st.sampled_from(known)) if known else None

    @rule(data=st.data())
    def load_and_run(self, data: st.DataObject) -> None:
        if (picked := self._pick(data)) is None:
            return
        truth, assign = picked
        worker_id = assign.worker_id
        if not truth.running:
            self.unloaded(worker_id)
        truth.coming.clear()  # it was given up when the Assign came
        self.feed(AttemptLoading(worker_id, assign.attempt_id))
        gone = [d for d in assign.evict_digests if d in truth.vram]
        removed = tuple(Residency(d, Tier.VRAM, truth.vram.pop(d)) for d in gone)
        self.feed(ResidencyChanged(worker_id, (), removed))
        sizes = assign.job.model.sizes
        new = {digest: size for digest, size in sizes.items() if digest not in truth.vram}
        truth.vram.update(new)
        vram_bytes = a_worker(worker_id, free_gib=SIZES_GIB[worker_id]).vram_bytes
        assert sum(truth.vram.values()) <= vram_bytes, "the worker really has no room"
        added = tuple(Residency(digest, Tier.VRAM, size) for digest, size in new.items())
        self.feed(ResidencyChanged(worker_id, added, ()))
        truth.running.add(assign.attempt_id)
        self.feed(AttemptRunning(worker_id, assign.attempt_id, 5, Tier.DISK))

    @rule(
        data=st.data(),
        outcome=st.sampled_from(Outcome),
        metered_ms=st.integers(0, 3_000),
        again=st.booleans(),
    )
    def finish(self, data: st.DataObject, outcome: Outcome, metered_ms: int, again: bool) -> None:
        if (picked := self._pick(data)) is None:
            return
        truth, assign = picked
        event = AttemptFinished(
            assign.worker_id, assign.attempt_id, assign.job.request_id, outcome, metered_ms
        )
        del truth.assigned[assign.attempt_id]
        for _ in range(1 + again):
            self.feed(event, after_ms=metered_ms)

    def _reports(self, truth: Truth) -> tuple[AttemptReport, ...]:
        return tuple(
            AttemptReport(
                attempt_id,
                assign.job.request_id,
                RequestState.RUNNING if attempt_id in truth.running else RequestState.PLACED,
            )
            for attempt_id, assign in truth.assigned.items()
        )

    def teardown(self) -> None:
        if hasattr(self, "scenario"):
            self.scenario.close()


TestCoreMachine = CoreMachine.TestCase
# A busy machine makes generation slow, which says nothing about the core.
TestCoreMachine.settings = settings(
    max_examples=300,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
