"""The slow planner on virtual time: copies, prefetches, what leaves first, how many workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from quickthaw.scheduler.core.commands import (
    Command,
    SendAssign,
    SendPrefetch,
    SendUnload,
)
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    EndpointChanged,
    QuarantineRecovered,
    ResidencyChanged,
)
from quickthaw.scheduler.core.model import (
    EndpointSettings,
    ModelSpec,
    Outcome,
    Residency,
    Tier,
    Visibility,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.sanctions import Quarantine
from quickthaw.scheduler.core.settings import CoreSettings, PlacementPolicy, SupplyPolicy
from support.core_builders import (
    GIB,
    Scenario,
    a_job,
    a_model,
    a_worker,
    of_kind,
    only,
    resident,
)

SECOND, MINUTE = 1_000, 60_000
POLICY = SupplyPolicy(interval_ms=5 * SECOND)
SETTINGS = CoreSettings(supply=POLICY, lease_ms=24 * 60 * MINUTE)
"""No worker is silent for too long, for nobody sends heartbeats here."""
M = a_model("m")


@pytest.fixture
def scenario() -> Iterator[Scenario]:
    scenario = Scenario(SETTINGS)
    yield scenario
    scenario.close()


def serve(scenario: Scenario, model: ModelSpec = M, **settings: object) -> list[Command]:
    wanted = EndpointSettings(**settings)  # type: ignore[arg-type]  # by their names
    return scenario.feed(EndpointChanged(model.id, wanted, model))


def with_pinned(spec: WorkerSpec, gib: float = 40) -> WorkerSpec:
    return replace(spec, pinned_bytes=int(gib * GIB))


def came(scenario: Scenario, prefetch: SendPrefetch) -> list[Command]:
    """The worker has done what it was asked for."""
    added = tuple(
        Residency(digest, prefetch.tier, prefetch.model.sizes[digest])
        for digest in prefetch.digests
    )
    return scenario.feed(ResidencyChanged(prefetch.worker_id, added))


def rounds(scenario: Scenario, span_ms: int) -> list[Command]:
    """What the planner says in that time, if nothing else happens."""
    said: list[Command] = []
    for _ in range(span_ms // POLICY.interval_ms):
        said += scenario.wait(POLICY.interval_ms)
    return said


def runs(scenario: Scenario, number: int, model: ModelSpec = M, metered_ms: int = 100) -> None:
    """One request from arrival to end."""
    assign = only(scenario.submit(a_job(f"req_{model.id}_{number}", model)), SendAssign)
    scenario.run(assign)
    scenario.finish(assign, metered_ms=metered_ms)


def at_once(scenario: Scenario, request_id: str) -> list[Command]:
    """A request that was metered for a tenth of a second, in no time."""
    commands = scenario.submit(a_job(request_id, M, worker_hint="w0"))
    assign = only(commands, SendAssign)
    scenario.run(assign)
    ended = AttemptFinished(
        assign.worker_id, assign.attempt_id, assign.job.request_id, Outcome.SUCCEEDED, 100
    )
    return commands + scenario.feed(ended)


# ---- copies --------------------------------------------------------------------------------------


def test_an_endpoint_that_wants_copies_kept_gets_them_on_idle_workers(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    scenario.attach(a_worker("w2"))
    scenario.attach(a_worker("w3"))
    serve(scenario, min_replicas=2)
    first = only(scenario.wait(5 * SECOND), SendPrefetch)
    assert (first.tier, first.digests) == (Tier.VRAM, tuple(M.sizes))
    second = only(scenario.wait(5 * SECOND), SendPrefetch)
    assert second.worker_id != first.worker_id
    came(scenario, first)
    came(scenario, second)
    assert not of_kind(rounds(scenario, 2 * MINUTE), SendPrefetch)


def test_a_copy_that_is_on_its_way_is_counted_and_not_asked_for_again(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    scenario.attach(a_worker("w2"))
    serve(scenario, min_replicas=1)
    assert len(of_kind(rounds(scenario, 40 * SECOND), SendPrefetch)) == 1


def test_a_copy_that_never_comes_is_asked_for_again_in_the_end(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    serve(scenario, min_replicas=1)
    assert len(of_kind(rounds(scenario, 70 * SECOND), SendPrefetch)) == 2


def test_a_worker_that_has_done_one_prefetch_can_have_the_next(scenario: Scenario) -> None:
    other = a_model("other")
    scenario.attach(a_worker("w1"))
    serve(scenario, min_replicas=1)
    serve(scenario, other, min_replicas=1)
    first = only(scenario.wait(5 * SECOND), SendPrefetch)
    came(scenario, first)
    second = only(scenario.wait(5 * SECOND), SendPrefetch)
    assert {first.model.id, second.model.id} == {M.id, other.id}


def test_a_need_counts_only_when_it_has_lasted_for_the_scale_up_delay(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    serve(scenario, min_replicas=1, scale_up_delay_ms=20 * SECOND)
    assert not of_kind(rounds(scenario, 20 * SECOND), SendPrefetch)
    assert of_kind(rounds(scenario, 10 * SECOND), SendPrefetch)


@pytest.mark.parametrize(("most", "copies"), [(2, 2), (0, 3)])
def test_traffic_brings_more_copies_up_to_the_endpoints_limit_or_a_third_of_the_fleet(
    scenario: Scenario, most: int, copies: int
) -> None:
    scenario.attach(a_worker("w0"), *resident(M))
    for number in range(1, 9):
        scenario.attach(a_worker(f"w{number}"))
    serve(scenario, max_replicas=most)
    holders = {WorkerId("w0")}
    for tenth in range(400):
        said = scenario.wait(100)
        for number in range(4):  # each a tenth of a second: four copies' work
            said += at_once(scenario, f"req_{tenth}_{number}")
        for prefetch in of_kind(said, SendPrefetch):
            holders.add(prefetch.worker_id)
            came(scenario, prefetch)
    assert len(holders) == copies


def test_regular_use_brings_a_second_copy_in_a_fleet_of_three(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"), *resident(M))
    for worker_id in ("w2", "w3", "w4"):
        scenario.attach(a_worker(worker_id))
    for number in range(8):
        runs(scenario, number)
    (prefetch,) = of_kind(rounds(scenario, 30 * SECOND), SendPrefetch)
    assert prefetch.worker_id != "w1"


def test_a_buffer_is_kept_beyond_what_the_traffic_needs(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    serve(scenario, buffer=1)
    assert of_kind(scenario.wait(5 * SECOND), SendPrefetch)


def test_a_quarantined_model_is_not_prefetched(scenario: Scenario) -> None:
    scenario.feed(QuarantineRecovered(Quarantine(M.id, M.snapshot_digest, "broken", 1)))
    scenario.attach(a_worker("w1"))
    serve(scenario, min_replicas=1)
    assert not of_kind(rounds(scenario, MINUTE), SendPrefetch)


# ---- out of the way ------------------------------------------------------------------------------


def test_a_worker_that_holds_something_is_sent_no_prefetch(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    other = a_model("other")
    only(scenario.submit(a_job("req_1", other)), SendAssign)
    serve(scenario, min_replicas=1)
    assert not of_kind(rounds(scenario, MINUTE), SendPrefetch)


def test_a_prefetch_goes_only_where_nothing_must_leave_for_it(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1", free_gib=8), *resident(a_model("other", gib=5)))
    serve(scenario, min_replicas=1)
    assert not of_kind(rounds(scenario, MINUTE), SendPrefetch)


def test_a_request_for_something_else_evicts_what_is_on_its_way(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1", free_gib=8))
    serve(scenario, min_replicas=1)
    prefetch = only(scenario.wait(5 * SECOND), SendPrefetch)
    assign = only(scenario.submit(a_job("req_1", a_model("other", gib=6))), SendAssign)
    assert set(prefetch.digests) <= set(assign.evict_digests)
    # It arrives nevertheless, just before the worker hears of the Assign.
    came(scenario, prefetch)
    scenario.run(assign, load_ms=10, tier=Tier.DISK)


def test_what_is_on_its_way_is_evicted_also_where_there_is_room_for_both(
    scenario: Scenario,
) -> None:
    # Else its late arrival would be in nobody's plan, and the next request placed into its room.
    scenario.attach(a_worker("w1", free_gib=12))
    serve(scenario, min_replicas=1)
    prefetch = only(scenario.wait(5 * SECOND), SendPrefetch)
    first = only(scenario.submit(a_job("req_1", a_model("one", gib=2))), SendAssign)
    assert first.evict_digests == prefetch.digests
    only(scenario.submit(a_job("req_2", a_model("two", gib=7))), SendAssign)
    came(scenario, prefetch)


def test_a_request_for_what_is_on_its_way_takes_it_over(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    scenario.attach(a_worker("w2"))
    serve(scenario, min_replicas=1)
    prefetch = only(scenario.wait(5 * SECOND), SendPrefetch)
    assign = only(scenario.submit(a_job("req_1", M)), SendAssign)
    assert assign.worker_id == prefetch.worker_id
    assert not set(assign.evict_digests) & set(prefetch.digests)


# ---- what leaves first ---------------------------------------------------------------------------


def evicted_first(scenario: Scenario, worker_id: str = "w1") -> list[str]:
    worker = scenario.machine.worker(WorkerId(worker_id))
    assert worker is not None
    return [digest for digest, _ in worker.evictable()]


def test_a_model_past_its_keep_alive_leaves_before_one_that_was_just_used(
    scenario: Scenario,
) -> None:
    old, young = a_model("a-old", gib=2), a_model("young", gib=20)
    scenario.attach(a_worker("w1"), *resident(old), *resident(young))
    serve(scenario, old, keep_alive_ms=MINUTE)
    for number in range(5):  # often used, and so dear to greedy-dual
        runs(scenario, number, old)
    runs(scenario, 1, young)
    assert evicted_first(scenario)[0] == "young-weights"
    rounds(scenario, 90 * SECOND)
    assert evicted_first(scenario)[0] == "a-old-weights"


def test_what_an_endpoint_wants_kept_leaves_last(scenario: Scenario) -> None:
    kept, other = a_model("kept", gib=20), a_model("other", gib=2)
    scenario.attach(a_worker("w1"), *resident(kept), *resident(other))
    runs(scenario, 1, kept)
    for number in range(5):
        runs(scenario, number, other)
    assert evicted_first(scenario)[0] == "kept-weights"
    serve(scenario, kept, min_replicas=1)
    scenario.wait(5 * SECOND)
    assert evicted_first(scenario)[-1] == "kept-weights"


def test_a_cold_copy_is_unloaded_where_room_is_short_and_it_is_pinned_too(
    scenario: Scenario,
) -> None:
    model = a_model("cold", gib=36)
    both = (*resident(model), *resident(model, Tier.PINNED))
    scenario.attach(a_worker("w1"), *both)
    serve(scenario, model, keep_alive_ms=30 * SECOND)
    runs(scenario, 1, model)
    assert not of_kind(rounds(scenario, 30 * SECOND), SendUnload)
    unload = only(rounds(scenario, 10 * SECOND), SendUnload)
    assert (unload.tier, unload.digests) == (Tier.VRAM, tuple(model.sizes))
    # Its space counts when the worker confirms, and a request for it just loads it again.
    assign = only(scenario.submit(a_job("again", model)), SendAssign)
    assert not assign.evict_digests


def test_a_cold_copy_stays_while_nobody_needs_its_room(scenario: Scenario) -> None:
    both = (*resident(M), *resident(M, Tier.PINNED))
    scenario.attach(a_worker("w1"), *both)
    serve(scenario, keep_alive_ms=SECOND)
    runs(scenario, 1)
    assert not of_kind(rounds(scenario, 10 * MINUTE), SendUnload)


# ---- pauses --------------------------------------------------------------------------------------


def test_a_model_with_regular_pauses_is_brought_back_just_before_its_next_request() -> None:
    # Waiting must cost enough for a copy to be worth its room until then.
    dear = PlacementPolicy(second_worth_nanodollars=30_000_000)
    scenario = Scenario(replace(SETTINGS, placement=dear))
    model = a_model("hourly", gib=20)
    scenario.attach(a_worker("w1"), *resident(model))
    for number in range(10):
        runs(scenario, number, model)
        scenario.wait(60 * MINUTE)
    runs(scenario, 10, model)
    gone = tuple(Residency(digest, Tier.VRAM, size) for digest, size in model.sizes.items())
    scenario.feed(ResidencyChanged(WorkerId("w1"), (), gone))
    early = rounds(scenario, 45 * MINUTE)
    assert not of_kind(early, SendPrefetch)
    late = rounds(scenario, 14 * MINUTE)
    assert of_kind(late, SendPrefetch)
    scenario.close()


def test_a_copy_that_costs_more_than_its_absence_is_not_brought_back() -> None:
    cheap = PlacementPolicy(second_worth_nanodollars=1)
    scenario = Scenario(replace(SETTINGS, placement=cheap))
    model = a_model("hourly", gib=20)
    both = (*resident(model), *resident(model, Tier.PINNED))
    scenario.attach(a_worker("w1"), *both)
    for number in range(10):
        runs(scenario, number, model)
        scenario.wait(60 * MINUTE)
    runs(scenario, 10, model)
    gone = tuple(Residency(digest, Tier.VRAM, size) for digest, size in model.sizes.items())
    scenario.feed(ResidencyChanged(WorkerId("w1"), (), gone))
    assert not of_kind(rounds(scenario, 70 * MINUTE), SendPrefetch)
    scenario.close()


# ---- pinned memory -------------------------------------------------------------------------------


def test_a_model_in_use_is_brought_from_disk_to_the_pinned_memory_of_an_idle_worker(
    scenario: Scenario,
) -> None:
    scenario.attach(with_pinned(a_worker("w1")), *resident(M, Tier.VRAM))
    scenario.attach(with_pinned(a_worker("w2")), *resident(M, Tier.DISK))
    for number in range(3):
        runs(scenario, number)
    found = of_kind(rounds(scenario, 10 * SECOND), SendPrefetch)
    assert [(each.worker_id, each.tier) for each in found] == [("w2", Tier.PINNED)]


def test_nothing_is_pinned_where_there_is_no_room(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"), *resident(M, Tier.VRAM))
    scenario.attach(with_pinned(a_worker("w2"), gib=1), *resident(M, Tier.DISK))
    for number in range(3):
        runs(scenario, number)
    assert not of_kind(rounds(scenario, MINUTE), SendPrefetch)


# ---- workers -------------------------------------------------------------------------------------


def test_no_worker_is_wanted_while_nobody_asks_for_anything(scenario: Scenario) -> None:
    assert scenario.machine.workers_wanted(scenario.now_ms) == 0


def test_a_request_that_finds_no_worker_wants_one(scenario: Scenario) -> None:
    scenario.submit(a_job())
    assert scenario.machine.workers_wanted(scenario.now_ms) == 1


def test_a_backlog_wants_as_many_as_would_clear_it_in_time(scenario: Scenario) -> None:
    for number in range(600):
        scenario.submit(a_job(f"req_{number}"))
    assert scenario.machine.workers_wanted(scenario.now_ms) > 2


def test_fewer_workers_are_wanted_only_after_the_delay(scenario: Scenario) -> None:
    scenario.attach(a_worker("w1"))
    assign = only(scenario.submit(a_job()), SendAssign)
    assert scenario.machine.workers_wanted(scenario.now_ms) == 1
    scenario.run(assign)
    scenario.finish(assign, metered_ms=1)
    assert scenario.machine.workers_wanted(scenario.now_ms) == 1
    assert scenario.machine.workers_wanted(scenario.now_ms + 59 * SECOND) == 1
    assert scenario.machine.workers_wanted(scenario.now_ms + 61 * SECOND) == 0


def test_copies_that_endpoints_want_kept_need_workers(scenario: Scenario) -> None:
    serve(scenario, min_replicas=3)
    assert scenario.machine.workers_wanted(scenario.now_ms) == 3


def test_reserved_workers_are_wanted_besides_the_others(scenario: Scenario) -> None:
    serve(scenario, visibility=Visibility.DEDICATED, owner_tenant="acme", reserved_workers=2)
    scenario.submit(a_job("other", a_model("other")))
    assert scenario.machine.workers_wanted(scenario.now_ms) == 3
