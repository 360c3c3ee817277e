"""The fair order's promises, for any tenants, weights and costs."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quickthaw.scheduler.core.fair_queue import FairQueue
from quickthaw.scheduler.core.model import Priority, RequestId, TenantId
from quickthaw.scheduler.core.sorted_tags import SortedTags, Tag
from support.core_builders import a_job, a_model

# A busy machine makes generation slow, which says nothing about the queue.
PATIENT = settings(suppress_health_check=[HealthCheck.too_slow])

costs = st.lists(st.integers(1, 1_000), min_size=30, max_size=30)
weights = st.floats(0.25, 4.0)


@settings(PATIENT, max_examples=300)
@given(
    guesses=st.lists(st.sampled_from([1.0, 2.0, 0.3]), min_size=1, max_size=8),
    weight_a=weights,
    weight_b=weights,
    costs_a=costs,
    costs_b=costs,
    alone=st.integers(0, 15),
)
def test_backlogged_tenants_differ_by_at_most_one_request_of_each(
    guesses: list[float],
    weight_a: float,
    weight_b: float,
    costs_a: list[int],
    costs_b: list[int],
    alone: int,
) -> None:
    """For every stretch of time in which both have work, whatever was estimated, and however long
    one was `alone` before: who idled has saved nothing up."""
    queue = FairQueue({"a": weight_a, "b": weight_b}, 0)
    actual: dict[str, int] = {}

    def submit(tenant: str, wanted: list[int]) -> None:
        for number, cost in enumerate(wanted):
            job = a_job(f"{tenant}{number}", tenant=tenant)
            actual[job.request_id] = cost
            queue.add(job, queue.rank(job), cost * guesses[number % len(guesses)])

    def serve() -> tuple[str, int]:
        job = next(queue.in_order(1)).job
        charged = queue.take(job.request_id)
        cost = actual[job.request_id]
        queue.charge(job.tenant, cost - charged)
        return job.tenant, cost

    submit("a", costs_a)
    for _ in range(alone):
        serve()
    submit("b", costs_b)
    tenant_a, tenant_b = TenantId("a"), TenantId("b")
    ahead, difference = 0.0, [0.0]
    while queue.length_of(tenant_a) and queue.length_of(tenant_b):
        tenant, cost = serve()
        ahead += cost / weight_a if tenant == "a" else -cost / weight_b
        difference.append(ahead)
    # The difference of the two services moves within a band no wider than the bound.
    bound = max(costs_a) / weight_a + max(costs_b) / weight_b
    assert max(difference) - min(difference) <= bound * (1 + 1e-9)


@settings(PATIENT, max_examples=200)
@given(
    submitted=st.lists(
        st.tuples(st.integers(0, 100), st.sampled_from(Priority), st.sampled_from("abc")),
        min_size=1,
        max_size=40,
    ),
    head_start_ms=st.integers(0, 60),
)
def test_inside_a_tenant_nobody_is_overtaken_by_more_than_the_head_start(
    submitted: list[tuple[int, Priority, str]], head_start_ms: int
) -> None:
    queue = FairQueue({}, head_start_ms)
    for number, (at_ms, priority, tenant) in enumerate(submitted):
        job = a_job(f"req_{number}", tenant=tenant, priority=priority, submitted_ms=at_ms)
        queue.add(job, queue.rank(job), 10)
    order = [waiting.job for waiting in queue.in_order(len(submitted))]
    assert len({job.request_id for job in order}) == len(submitted)
    for earlier_taken, job in enumerate(order):
        for later in order[earlier_taken + 1 :]:
            if later.tenant == job.tenant:
                steps = max(0, job.priority - later.priority)
                assert job.submitted_ms <= later.submitted_ms + steps * head_start_ms


@settings(PATIENT, max_examples=200)
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["add", "take", "remove"]), st.sampled_from("abcd"), st.integers(1, 99)
        ),
        max_size=60,
    )
)
def test_the_order_that_is_foretold_is_the_order_that_comes(
    actions: list[tuple[str, str, int]],
) -> None:
    queue = FairQueue({"b": 2.0}, 0)
    alive: list[RequestId] = []
    for number, (what, tenant, cost) in enumerate(actions):
        if what == "add":
            job = a_job(f"req_{number:02}", tenant=tenant)
            queue.add(job, queue.rank(job), cost)
            alive.append(job.request_id)
        elif alive and what == "take":
            request_id = next(queue.in_order(1)).job.request_id
            queue.take(request_id)
            alive.remove(request_id)
        elif alive:
            queue.remove(alive.pop(cost % len(alive)))
    assert len(queue) == len(alive)
    foretold = [waiting.job.request_id for waiting in queue.in_order(len(alive))]
    assert sorted(foretold) == sorted(alive)
    assert [queue.position(name, 100) for name in foretold] == list(range(len(foretold)))
    came = []
    while len(queue):
        came.append(next(queue.in_order(1)).job.request_id)
        queue.take(came[-1])
    assert came == foretold
    assert queue.run_ms == 0.0


@settings(PATIENT, max_examples=100)
@given(newcomers=st.integers(1, 20), cost=st.integers(1, 500))
def test_a_tenant_that_waited_while_others_came_and_went_is_served_in_turn(
    newcomers: int, cost: int
) -> None:
    """However many tenants come new, each with one request, the old one's next is not put off by
    more than one request of each."""
    queue = FairQueue({}, 0)
    for number in range(3):
        job = a_job(f"old_{number}", tenant="old")
        queue.add(job, queue.rank(job), cost)
    for number in range(newcomers):
        job = a_job(f"new_{number}", tenant=f"t{number}")
        queue.add(job, queue.rank(job), cost)
    order = [waiting.job.tenant for waiting in queue.in_order(100)]
    second = [index for index, tenant in enumerate(order) if tenant == "old"][1]
    assert second <= newcomers + 1


@settings(PATIENT, max_examples=200)
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["add", "take", "remove"]), st.integers(0, 3)), max_size=60
    )
)
def test_what_waits_for_a_model_is_found_by_its_largest_component(
    actions: list[tuple[str, int]],
) -> None:
    queue = FairQueue({}, 0)
    models = [a_model(f"m{number}") for number in range(4)]
    alive: dict[RequestId, int] = {}
    for number, (what, model) in enumerate(actions):
        if what == "add":
            job = a_job(f"req_{number:02}", models[model], tenant="ab"[number % 2])
            queue.add(job, queue.rank(job), 10.0)
            alive[job.request_id] = model
        elif alive:
            request_id = next(iter(alive))
            del alive[request_id]
            queue.take(request_id) if what == "take" else queue.remove(request_id)
        for index, each in enumerate(models):
            found = [w.job.request_id for w in queue.wanting(next(iter(each.sizes)))]
            assert found == [name for name, wanted in alive.items() if wanted == index]


@settings(PATIENT, max_examples=300)
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["add", "remove", "first", "after"]), st.integers(0, 2_000)),
        max_size=200,
    ),
    crowd=st.integers(0, 1_500),
)
def test_tags_are_in_order_whatever_comes_and_goes(
    actions: list[tuple[str, int]], crowd: int
) -> None:
    """Beside a plain sorted list; a crowd makes several blocks."""
    tags, expected = SortedTags(), list[Tag]()
    for number in range(crowd):
        expected.append(Tag(float(number * 7 % 2_003), TenantId(f"t{number}")))
        tags.add(expected[-1])
    expected.sort()
    for number, (what, value) in enumerate(actions):
        tag = Tag(float(value), TenantId(f"x{number}"))
        if what == "add":
            tags.add(tag)
            expected.append(tag)
            expected.sort()
        elif what == "remove" and expected:
            tags.remove(expected.pop(value % len(expected)))
        elif what == "after":
            assert tags.after(tag) == next((each for each in expected if each > tag), None)
        assert tags.first() == (expected[0] if expected else None)


class Counted(float):
    """A finish tag that counts how often tags are compared."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < other

    def __gt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) > other

    def __eq__(self, other: object) -> bool:
        return float(self) == other

    __hash__ = float.__hash__


@pytest.mark.parametrize("tenants", [100, 10_000])
def test_the_order_s_cost_grows_with_the_logarithm_of_the_tenants(tenants: int) -> None:
    tags = SortedTags()
    for number in range(tenants):
        tags.add(Tag(Counted(number * 7_919 % 10_007), TenantId(f"t{number}")))
    first = tags.first()
    assert first is not None
    Counted.comparisons = 0
    tags.remove(first)
    tags.add(Tag(Counted(5_000.5), first.tenant))
    tags.after(Tag(Counted(5_000.0), first.tenant))
    assert Counted.comparisons <= 10 * math.log2(tenants)


@settings(PATIENT, max_examples=200)
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["add", "take", "remove", "hold", "release", "park", "open"]),
            st.sampled_from("abc"),
            st.integers(1, 99),
        ),
        max_size=80,
    )
)
def test_who_is_held_back_is_not_in_the_order_and_nobody_is_lost(
    actions: list[tuple[str, str, int]],
) -> None:
    queue = FairQueue({"b": 2.0}, 0)
    alive: list[RequestId] = []
    for number, (what, tenant, cost) in enumerate(actions):
        name = TenantId(tenant)
        if what == "add":
            job = a_job(f"req_{number:02}", tenant=tenant)
            queue.add(job, queue.rank(job), cost, 1.0)
            alive.append(job.request_id)
        elif what == "hold" and queue.length_of(name):
            queue.hold(name)
        elif what == "release":
            queue.release(name)
        elif what == "open":
            queue.open_gate("gate", cost % 4)
        elif what == "remove" and alive:
            queue.remove(alive.pop(cost % len(alive)))
        elif what in ("take", "park") and (first := next(queue.in_order(1), None)) is not None:
            assert not queue.is_held(first.job.tenant)
            assert not first.gate
            if what == "park":
                queue.park(first.job.request_id, "gate")
            else:
                queue.take(first.job.request_id)
                alive.remove(first.job.request_id)
        walked = [waiting.job.request_id for waiting in queue.in_order(100)]
        free = [r for r in alive if not (queue.is_held(queue.get(r).job.tenant))]
        assert sorted(walked) == sorted(r for r in free if not queue.get(r).gate)
        assert len(queue) == len(alive)
        assert queue.run_ms == pytest.approx(len(alive))
        assert all(queue.position(request_id, 3) >= 0 for request_id in alive)
    for tenant in "abc":
        queue.release(TenantId(tenant))
    queue.open_gate("gate", len(alive))
    assert sorted(w.job.request_id for w in queue.in_order(100)) == sorted(alive)
    assert not queue.parked_at("gate")


def test_a_tenant_that_was_held_back_is_not_owed_what_passed_meanwhile() -> None:
    queue = FairQueue({}, 0)
    for number in range(6):
        for tenant in "ab":
            job = a_job(f"{tenant}{number}", tenant=tenant)
            queue.add(job, queue.rank(job), 10)
    queue.hold(TenantId("a"))
    for _ in range(4):
        queue.take(next(queue.in_order(1)).job.request_id)
    queue.release(TenantId("a"))
    order = [waiting.job.request_id[0] for waiting in queue.in_order(4)]
    assert "".join(order) in ("abab", "aaba", "baba"), "by turns from now on"
