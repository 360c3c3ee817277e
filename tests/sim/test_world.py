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
