"""A worker's plan is kept step by step as attempts come and go; it must be what it would be if it
were worked out anew from all that the worker holds."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.core.estimates import LearnedEstimates
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.model import AttemptId, Digest, Residency, Tier
from quickthaw.scheduler.core.worker import Held, Worker
from support.core_builders import a_component, a_model, a_worker

PARTS = tuple(a_component(name, gib=1 + number) for number, name in enumerate("abc"))
MODELS = [
    replace(a_model(f"m{count}", working_gib=count), components=PARTS[:count]) for count in range(4)
]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 3), st.integers(0, 9)),
        st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("arrives"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("goes"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("unload"), st.integers(0, 2), st.just(0)),
    ),
    max_size=30,
)


def plan(worker: Worker) -> tuple[object, ...]:
    return (
        worker.planned,
        worker.planned_bytes,
        worker.places,
        worker.available_ms,
        worker.loads_until_ms,
        worker.leaves,
        worker.committed_bytes,
        worker.working_bytes(1 << 30),
        worker.evictable(),
    )


class Played:
    """One worker to which things happen."""

    def __init__(self, concurrency: int) -> None:
        self._fleet = Fleet(LearnedEstimates(100), queue_ahead=4)
        self.worker = self._fleet.attach(a_worker("w1", concurrency=concurrency), 1, now_ms=0)

    def step(self, number: int, what: str, index: int, more: int) -> None:
        fleet, worker, part = self._fleet, self.worker, PARTS[index % 3]
        lies = (Residency(part.digest, Tier.VRAM, part.size_bytes),)
        match what:
            case "hold":
                model = MODELS[index]
                evicts = [Digest(PARTS[2].digest)] if more > 7 and index < 3 else []
                held = Held(model, evicts, 100 + more, expected_run_ms=5, loaded_ms=10 * (more % 3))
                fleet.hold(worker, AttemptId(f"r{number}.1"), held)
            case "release":
                known = list(worker.held)
                if known:
                    fleet.release(worker, known[index % len(known)], now_ms=number)
            case "arrives":
                fleet.change_residency(worker, lies, ())
            case "goes":
                fleet.change_residency(worker, (), lies)
            case _:
                fleet.unload(worker, [part.digest])


@given(steps=steps, concurrency=st.integers(1, 6))
def test_a_plan_kept_step_by_step_is_the_one_worked_out_anew(
    steps: list[tuple[str, int, int]], concurrency: int
) -> None:
    kept, anew = Played(concurrency), Played(concurrency)
    for number, (what, index, more) in enumerate(steps):
        kept.step(number, what, index, more)
        anew.step(number, what, index, more)
        anew.worker.replan()
        assert plan(kept.worker) == plan(anew.worker), what
