"""What an Assign says of other workers that have the components which its worker lacks."""

from __future__ import annotations

from dataclasses import replace

from quickthaw.scheduler.core.commands import SendAssign
from quickthaw.scheduler.core.events import ResidencyChanged, WorkerDisconnected, WorkerHello
from quickthaw.scheduler.core.model import Tier, WorkerId, WorkerSpec
from support.core_builders import Scenario, a_job, a_model, a_worker, only, resident

MODEL = a_model()


def a_peer(name: str, *, url: bool = True, free_gib: float = 1) -> WorkerSpec:
    """One too small to run the model, but it can hand its components on."""
    spec = a_worker(name, free_gib=free_gib)
    return replace(spec, peer_url=f"http://{name}", peer_token=f"token-{name}") if url else spec


def places(scenario: Scenario) -> list[str]:
    assign = only(scenario.submit(a_job(model=MODEL)), SendAssign)
    assert assign.worker_id == "w1"
    return [url for each in assign.whereabouts for url, _token in each.places]


def test_memory_comes_before_disk_and_at_most_three_are_named(scenario: Scenario) -> None:
    scenario.feed(WorkerHello(a_worker("w1")))
    for name in ("d1", "d2", "d3"):
        scenario.feed(WorkerHello(a_peer(name), resident(MODEL, Tier.DISK)))
    scenario.feed(WorkerHello(a_peer("p1"), resident(MODEL, Tier.PINNED)))
    assert places(scenario) == ["http://p1", "http://d1", "http://d2"]


def test_a_peer_that_has_it_twice_is_named_once(scenario: Scenario) -> None:
    scenario.feed(WorkerHello(a_worker("w1")))
    both = (*resident(MODEL, Tier.PINNED), *resident(MODEL, Tier.DISK))
    scenario.feed(WorkerHello(a_peer("p1"), both))
    assert places(scenario) == ["http://p1"]


def test_who_serves_nobody_is_away_or_has_let_go_is_not_named(scenario: Scenario) -> None:
    scenario.feed(WorkerHello(a_worker("w1")))
    for name in ("silent", "away", "emptied", "there"):
        scenario.feed(WorkerHello(a_peer(name, url=name != "silent"), resident(MODEL, Tier.DISK)))
    scenario.feed(WorkerDisconnected(WorkerId("away")))
    gone = resident(MODEL, Tier.DISK)
    scenario.feed(ResidencyChanged(WorkerId("emptied"), removed=gone))
    assert places(scenario) == ["http://there"]


def test_a_worker_that_has_it_in_any_tier_is_told_of_nobody(scenario: Scenario) -> None:
    scenario.feed(WorkerHello(a_worker("w1"), resident(MODEL, Tier.DISK)))
    scenario.feed(WorkerHello(a_peer("p1"), resident(MODEL, Tier.PINNED)))
    assert places(scenario) == []


def test_no_token_shows_where_objects_are_printed(scenario: Scenario) -> None:
    scenario.feed(WorkerHello(a_worker("w1")))
    scenario.feed(WorkerHello(a_peer("p1"), resident(MODEL, Tier.DISK)))
    assign = only(scenario.submit(a_job(model=MODEL)), SendAssign)
    worker = scenario.machine.worker(WorkerId("p1"))
    assert worker is not None
    assert assign.whereabouts[0].places == (("http://p1", "token-p1"),)
    assert "token-p1" not in repr(assign) + repr(worker.spec)
