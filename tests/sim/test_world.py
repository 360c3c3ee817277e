"""Virtual workers do what real ones do."""

from __future__ import annotations

from random import Random

from quickthaw.scheduler.core.model import Component, Digest, ModelId, ModelSpec
from quickthaw.scheduler.simulate.kinds import ASSUMED
from quickthaw.scheduler.simulate.world import Attempt, VirtualWorker


def an_attempt(name: str) -> Attempt:
    own = Component(Digest(name), 1 << 30)
    return Attempt(name, ModelSpec(ModelId(name), "sim", name, "", (own,), 0), run_seconds=5.0)


def begins(worker: VirtualWorker) -> list[tuple[str, str]]:
    return [(step.what, step.attempt.key) for step in worker.begin()[0]]


def test_models_load_beside_a_run_until_two_wait_loaded() -> None:
    worker = VirtualWorker("w", ASSUMED["h100"], Random(1))
    first, second, third, fourth = attempts = [an_attempt(name) for name in "abcd"]
    worker.waiting.extend(attempts)
    assert begins(worker) == [("loaded", "a")]
    worker.loaded(first)
    assert begins(worker) == [("ran", "a"), ("loaded", "b")]
    worker.loaded(second)
    assert begins(worker) == [("loaded", "c")]
    worker.loaded(third)
    assert begins(worker) == []
    worker.ran(first)
    assert begins(worker) == [("ran", "b"), ("loaded", "d")]
    worker.loaded(fourth)
    assert worker.backlog() == 3


def test_what_is_up_runs_while_an_earlier_one_loads() -> None:
    worker = VirtualWorker("w", ASSUMED["h100"], Random(1))
    warm, again, cold, same = (an_attempt(name) for name in ("warm", "again", "cold", "cold"))
    again.model = warm.model
    worker.waiting.append(warm)
    begins(worker)
    worker.loaded(warm)
    begins(worker)
    worker.waiting.extend([cold, same, again])
    assert begins(worker) == [("loaded", "cold")]
    worker.ran(warm)
    assert begins(worker) == [("ran", "again")], "and not what is still on its way"
    worker.loaded(cold)
    assert begins(worker) == [("loaded", "cold")], "which is there now"
    worker.ran(again)
    assert begins(worker) == [("ran", "cold")]


def test_a_worker_that_keeps_the_order_lets_nothing_overtake() -> None:
    worker = VirtualWorker("w", ASSUMED["h100"], Random(1), overtakes_max=0)
    warm, again, cold = (an_attempt(name) for name in ("warm", "again", "cold"))
    again.model = warm.model
    worker.waiting.append(warm)
    begins(worker)
    worker.loaded(warm)
    begins(worker)
    worker.ran(warm)
    worker.waiting.extend([cold, again])
    assert begins(worker) == [("loaded", "cold")]
