"""Which worker a request goes to, and why."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.commands import SendAssign, TellQueued
from quickthaw.scheduler.core.estimates import LearnedEstimates
from quickthaw.scheduler.core.events import CordonRequested, WorkerDisconnected
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.model import (
    AttemptId,
    Job,
    RequestId,
    Residency,
    Tier,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.placement import place
from quickthaw.scheduler.core.query import Placement, Query, Unplaced
from quickthaw.scheduler.core.settings import CoreSettings, PlacementPolicy
from quickthaw.scheduler.core.worker import Held
from support.core_builders import (
    PRICES,
    Scenario,
    a_component,
    a_job,
    a_model,
    a_worker,
    of_kind,
    only,
    resident,
)

POLICY = PlacementPolicy(second_worth_nanodollars=1_000_000)


class Cluster:
    """A fleet without a machine: what `place` sees."""

    def __init__(self) -> None:
        self.estimates = LearnedEstimates(1_000)
        self.fleet = Fleet(self.estimates, queue_ahead=1)

    def add(self, spec: WorkerSpec, *residency: Residency) -> None:
        worker = self.fleet.attach(spec, PRICES.rate(spec.gpu_type), 0)
        self.fleet.change_residency(worker, residency, ())

    def busy(self, worker_id: str, *, until_ms: int, attempts: int = 1) -> None:
        """The worker holds attempts for the model "m"."""
        for number in range(attempts):
            attempt_id = AttemptId(f"other_{worker_id}.{number}")
            worker = self.fleet.workers[WorkerId(worker_id)]
            self.fleet.hold(worker, attempt_id, Held(a_model("m"), (), until_ms))

    def place(self, job: Job, *excluded: str, patient: bool = True) -> Placement | Unplaced:
        query = Query(job, frozenset(map(WorkerId, excluded)), patient)
        return place(query, self.fleet, self.estimates, POLICY, 0)

    def winner(self, job: Job, *excluded: str) -> str:
        found = self.place(job, *excluded)
        assert isinstance(found, Placement), found
        return found.chosen.worker_id

    def refusals(self, job: Job, *excluded: str) -> dict[str, str]:
        return {r.worker_id: r.reason for r in self.place(job, *excluded).refusals}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# ---- the score ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nearer", "farther"),
    [(Tier.VRAM, Tier.PINNED), (Tier.PINNED, Tier.DISK), (Tier.DISK, None)],
)
def test_the_worker_that_holds_the_model_nearer_wins(
    cluster: Cluster, nearer: Tier, farther: Tier | None
) -> None:
    model = a_model()
    cluster.add(a_worker("w1"), *(resident(model, farther) if farther else ()))
    cluster.add(a_worker("w2"), *resident(model, nearer))
    found = cluster.place(a_job(model=model))
    assert isinstance(found, Placement)
    assert (found.chosen.worker_id, found.chosen.start_tier) == ("w2", nearer)


def test_only_what_is_missing_is_loaded(cluster: Cluster) -> None:
    text = a_component("text", gib=8)
    tuned = a_model("tuned", gib=1, shared=(text,))
    cluster.add(a_worker("w1"))
    cluster.add(a_worker("w2"), Residency(text.digest, Tier.VRAM, text.size_bytes))
    found = cluster.place(a_job(model=tuned))
    assert isinstance(found, Placement)
    assert found.chosen.worker_id == "w2"
    # 1 GiB at half a GiB a second from afar, after half a second.
    assert found.chosen.load_seconds == pytest.approx(2.5)


def test_the_score_is_the_sum_of_its_terms(cluster: Cluster) -> None:
    cluster.add(a_worker("w1", free_gib=10), *resident(a_model("old", gib=8)))
    found = cluster.place(a_job(model=a_model("new", gib=8), work_units=20.0))
    assert isinstance(found, Placement)
    chosen = found.chosen
    assert chosen.evict_digests == ("old-weights",)
    assert chosen.load_term_seconds == chosen.load_seconds == pytest.approx(16.5)
    assert chosen.eviction_term_seconds == pytest.approx(16.5)
    assert chosen.run_seconds == pytest.approx(2.0)
    # One nano-dollar a second is worth a microsecond here; the rate is a million.
    assert chosen.price_term_seconds == pytest.approx(18.5)
    terms = chosen[2:5] + chosen[5:8]
    assert chosen.score_seconds == pytest.approx(sum(terms))


def test_a_cheap_worker_wins_when_a_second_is_worth_little(cluster: Cluster) -> None:
    model = a_model()
    cluster.add(a_worker("fast", gpu_type="h100"), *resident(model))
    cluster.add(a_worker("slow", gpu_type="cheap"), *resident(model, Tier.PINNED))
    hurry = a_job(model=model, second_worth_nanodollars=10**12)
    thrift = a_job(model=model, second_worth_nanodollars=10**5, work_units=20.0)
    assert cluster.winner(hurry) == "fast"
    assert cluster.winner(thrift) == "slow"


def test_a_busy_resident_worker_loses_once_waiting_takes_longer_than_a_load(
    cluster: Cluster,
) -> None:
    model = a_model("m", gib=1)
    cluster.add(a_worker("w1"), *resident(model))
    cluster.add(a_worker("w2"), *resident(model, Tier.PINNED))
    assert cluster.winner(a_job(model=model)) == "w1"
    cluster.busy("w1", until_ms=5_000)
    assert cluster.winner(a_job(model=model)) == "w2"


def test_equals_are_told_apart_by_residency_then_load_then_name(cluster: Cluster) -> None:
    for name in ("w3", "w1", "w2"):
        cluster.add(a_worker(name))
    found = cluster.place(a_job())
    assert isinstance(found, Placement)
    assert (found.chosen.worker_id, found.tie_break) == ("w1", "worker id")


def test_a_hinted_worker_wins_if_it_is_about_as_soon(cluster: Cluster) -> None:
    model = a_model(gib=1)
    cluster.add(a_worker("w1"), *resident(model))
    cluster.add(a_worker("w2"), *resident(model, Tier.PINNED))
    found = cluster.place(a_job(model=model, worker_hint="w2"))
    assert isinstance(found, Placement)
    assert (found.chosen.worker_id, found.tie_break) == ("w2", "hint")


def test_a_hinted_worker_loses_if_it_is_much_later(cluster: Cluster) -> None:
    model = a_model(gib=8)
    cluster.add(a_worker("w1"), *resident(model))
    cluster.add(a_worker("w2"))
    assert cluster.winner(a_job(model=model, worker_hint="w2")) == "w1"


# ---- refusals ----------------------------------------------------------------------------------


def test_every_refusal_has_its_reason(cluster: Cluster) -> None:
    model = a_model(gib=20)
    for name in ("cordoned", "draining", "gone", "full", "kept", "lost"):
        cluster.add(a_worker(name))
    cluster.add(a_worker("small", free_gib=20))
    cluster.add(a_worker("good"))
    workers = cluster.fleet.workers
    workers[WorkerId("cordoned")].cordoned = True
    workers[WorkerId("draining")].draining = True
    workers[WorkerId("gone")].connected = False
    workers[WorkerId("kept")].reserved_for = RequestId("req_9")
    for worker in workers.values():
        cluster.fleet.refresh(worker)
    cluster.busy("full", until_ms=9, attempts=2)
    assert cluster.refusals(a_job(model=model), "lost") == {
        "cordoned": "cordoned",
        "draining": "draining",
        "gone": "disconnected",
        "full": "depth",
        "kept": "reserved",
        "lost": "excluded",
        "small": "vram",
    }


def test_room_that_running_work_needs_is_not_made(cluster: Cluster) -> None:
    cluster.add(a_worker("w1", free_gib=10), *resident(a_model("m", gib=6)))
    cluster.busy("w1", until_ms=100)
    assert cluster.refusals(a_job(model=a_model("n", gib=6))) == {"w1": "vram_in_use"}


def test_a_price_cap_refuses_what_might_cost_more(cluster: Cluster) -> None:
    cluster.add(a_worker("dear", gpu_type="h100"))
    cluster.add(a_worker("cheap", gpu_type="cheap"))
    job = a_job(work_units=10.0, price_cap_nanodollars=500_000)
    assert cluster.winner(job) == "cheap"
    assert cluster.refusals(job) == {"dear": "price_cap"}


def test_a_deadline_refuses_who_would_surely_be_late(cluster: Cluster) -> None:
    model = a_model(gib=8)
    cluster.add(a_worker("cold"))
    cluster.add(a_worker("warm"), *resident(model))
    job = a_job(model=model, deadline_ms=10_000)
    assert cluster.winner(job) == "warm"
    assert cluster.refusals(job) == {"cold": "deadline"}


def test_a_run_time_that_is_a_guess_refuses_nobody(cluster: Cluster) -> None:
    model = a_model()
    cluster.add(a_worker("w1"), *resident(model))
    job = a_job(model=model, work_units=1_000.0, deadline_ms=10_000)
    assert cluster.winner(job) == "w1"
    cluster.estimates.ran(model.id, "h100", 1.0, 0.1)
    assert cluster.refusals(job) == {"w1": "deadline"}


# ---- waiting for residency ---------------------------------------------------------------------


def test_a_request_waits_for_a_full_worker_that_has_its_model_if_that_is_sooner(
    cluster: Cluster,
) -> None:
    model = a_model("m", gib=16)
    cluster.add(a_worker("w1"), *resident(model))
    cluster.add(a_worker("w2"))
    cluster.busy("w1", until_ms=2_000, attempts=2)
    found = cluster.place(a_job(model=model))
    assert isinstance(found, Unplaced)
    assert found.waits_for == "w1"
    assert found.wait_seconds == found.candidates[0].score_seconds > 65.0
    impatient = cluster.place(a_job(model=model), patient=False)
    assert isinstance(impatient, Placement)
    assert impatient.chosen.worker_id == "w2"


def test_a_request_waits_for_a_fast_worker_rather_than_run_on_a_slow_one_at_once(
    cluster: Cluster,
) -> None:
    """Where workers are scarce: among many that are idle, another fast one is soon free."""
    for seconds, gpu_type in ((1.0, "h100"), (60.0, "cheap")):
        cluster.estimates.ran(a_model("n").id, gpu_type, 1.0, seconds)
    cluster.add(a_worker("fast", gpu_type="h100"))
    cluster.add(a_worker("slow", gpu_type="cheap"))
    cluster.busy("fast", until_ms=2_000, attempts=2)
    found = cluster.place(a_job(model=a_model("n")))
    assert isinstance(found, Unplaced)
    assert found.waits_for == "fast"
    assert cluster.winner(a_job(model=a_model("n")), "fast") == "slow"
    for number in range(20):
        cluster.add(a_worker(f"other_{number}", gpu_type="cheap"))
    assert isinstance(cluster.place(a_job(model=a_model("n"))), Placement)
    for number in range(16):
        cluster.busy(f"other_{number}", until_ms=2_000)
    found = cluster.place(a_job(model=a_model("n")))
    assert isinstance(found, Unplaced)
    assert found.waits_for == "fast", "five of 22 are idle"


def test_the_last_place_of_a_worker_is_for_when_workers_are_scarce(cluster: Cluster) -> None:
    model = a_model("wanted", gib=16)
    cluster.add(a_worker("w"), *resident(model))
    for number in range(20):
        cluster.add(a_worker(f"other_{number}"))
    cluster.busy("w", until_ms=2_000)
    found = cluster.place(a_job(model=model))
    assert isinstance(found, Unplaced)
    assert found.waits_for == "w"
    for number in range(16):
        cluster.busy(f"other_{number}", until_ms=2_000)
    assert cluster.winner(a_job(model=model)) == "w"


def test_a_request_waits_beside_another_warm_worker_only_if_nobody_else_waits(
    cluster: Cluster,
) -> None:
    """Or others would go first, on the worker that it declined."""
    model = a_model("m")
    for worker_id, until_ms, attempts in (("soon", 2_000, 2), ("late", 90_000, 1)):
        cluster.add(a_worker(worker_id), *resident(model))
        cluster.busy(worker_id, until_ms=until_ms, attempts=attempts)
    assert cluster.winner(a_job(model=model)) == "late"
    query = Query(a_job(model=model), choosy=True)
    found = place(query, cluster.fleet, cluster.estimates, POLICY, 0)
    assert isinstance(found, Unplaced)
    assert found.waits_for == "soon"


def test_a_load_hides_the_run_beside_it_and_waits_for_the_load_before_it(cluster: Cluster) -> None:
    cluster.add(a_worker("w1"))
    worker = cluster.fleet.workers[WorkerId("w1")]
    running = Held(a_model("running"), (), 5_000, loaded_ms=2_000)
    cluster.fleet.hold(worker, AttemptId("other.1"), running)
    # 4 GiB at half a GiB a second, after half a second: longer than the run that is left.
    candidate = cluster.place(a_job(model=a_model("big", gib=4))).candidates[0]
    assert (candidate.drain_seconds, candidate.load_seconds) == pytest.approx((2.0, 8.5))
    candidate = cluster.place(a_job(model=a_model("small", gib=0.5))).candidates[0]
    assert (candidate.drain_seconds, candidate.load_seconds) == pytest.approx((3.5, 1.5))


# ---- the index ---------------------------------------------------------------------------------


def test_one_resident_worker_is_found_among_a_thousand(cluster: Cluster) -> None:
    model = a_model("rare")
    for number in range(1_000):
        holding = resident(model) if number == 567 else resident(a_model(f"n{number % 9}"))
        cluster.add(a_worker(f"w{number:03}"), *holding)
    found = cluster.place(a_job(model=model))
    assert isinstance(found, Placement)
    assert found.chosen.worker_id == "w567"
    assert len(found.candidates) + len(found.refusals) < 30, "that was a scan"


def test_the_only_worker_with_room_is_found_among_many_that_have_none(cluster: Cluster) -> None:
    """None of the nominated can take it; then everybody who has a place left is asked."""
    busy = a_model("m", gib=30)
    for number in range(100):
        cluster.add(a_worker(f"w{number:02}"))
    for number, worker in enumerate(list(cluster.fleet.workers.values())):
        if number != 42:
            held = Held(busy, (), 1_000)
            cluster.fleet.hold(worker, AttemptId(f"other.{number}"), held)
        else:
            held = Held(a_model("tiny", gib=0.1), (), 1_000)
            cluster.fleet.hold(worker, AttemptId("tiny.1"), held)
    assert cluster.winner(a_job(model=a_model("n", gib=30))) == "w42"


def test_a_worker_that_is_not_ready_leaves_the_index_and_returns_to_it(cluster: Cluster) -> None:
    model = a_model()
    cluster.add(a_worker("w1"), *resident(model), *resident(a_model("p"), Tier.PINNED))
    worker = cluster.fleet.workers[WorkerId("w1")]
    weights = next(iter(model.sizes))
    for cordoned, holders in ((True, []), (False, ["w1"])):
        worker.cordoned = cordoned
        cluster.fleet.refresh(worker)
        assert list(cluster.fleet.holders(weights, Tier.VRAM)) == holders
        assert cluster.fleet.open_count == len(holders)


# ---- through the machine -----------------------------------------------------------------------


def test_requests_spread_over_equal_workers_rather_than_herd(scenario: Scenario) -> None:
    for number in range(4):
        scenario.attach(a_worker(f"w{number}"), *resident(a_model()))
    chosen = {only(scenario.submit(a_job(f"req_{n}")), SendAssign).worker_id for n in range(4)}
    assert len(chosen) == 4


def test_a_second_request_joins_a_load_that_is_under_way(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    scenario.submit(a_job("req_1"))
    only(scenario.submit(a_job("req_2")), SendAssign)
    decision = scenario.machine.explain(RequestId("req_2"))[-1]
    assert decision.candidates[0].start_tier is Tier.VRAM
    assert decision.candidates[0].load_seconds == 0.0


def test_a_worker_holds_one_attempt_more_than_it_runs(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1", concurrency=2))
    assigned = [of_kind(scenario.submit(a_job(f"req_{n}")), SendAssign) for n in range(4)]
    assert [len(found) for found in assigned] == [1, 1, 1, 0]


def test_a_request_goes_elsewhere_when_its_patience_ends() -> None:
    dear_seconds = PlacementPolicy(second_worth_nanodollars=30_000_000)
    scenario = Scenario(CoreSettings(dear_seconds, lease_ms=600_000))
    model = a_model("m", gib=16)
    scenario.attach(a_worker("w1"), *resident(model))
    scenario.submit(a_job("req_1", model))
    scenario.submit(a_job("req_2", model))
    scenario.attach(a_worker("w2"))
    assert [type(c) for c in scenario.submit(a_job("req_3", model))] == [TellQueued]
    due_ms = scenario.machine.next_timer_ms()
    assert due_ms is not None
    assert due_ms == pytest.approx(1_000 + 66_200, rel=0.01)
    assert only(scenario.wait(due_ms - scenario.now_ms), SendAssign).worker_id == "w2"
    scenario.close()


def test_a_waiting_request_can_be_told_why_it_waits(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    scenario.attach(a_worker("w2", free_gib=3))
    scenario.feed(CordonRequested(WorkerId("w1")))
    scenario.feed(WorkerDisconnected(WorkerId("w2")))
    scenario.submit(a_job())
    (decision,) = scenario.machine.explain(RequestId("req_1"))
    assert (decision.attempt, decision.chosen_worker_id) == (1, None)
    reasons = {refusal.worker_id: refusal.reason for refusal in decision.refusals}
    assert reasons == {"w1": "cordoned", "w2": "disconnected"}
