"""What waits behind a run that overstays moves to another worker: real processes, one bill."""

from __future__ import annotations

from pathlib import Path

from quickthaw.client import Component, Model, RequestState
from support.platform import running_platform, until

NOOP = Model(
    id="test/noop",
    family="noop",
    snapshot_digest="",
    snapshot_uri="",
    components=tuple[Component](),
    working_bytes=0,
    input_schema={"type": "object"},
)
TWO = ("--workers", "2", "--vram-bytes", "256MiB", "--pinned-bytes", "64MiB", "--no-packer")
AGES_MS = 600_000


async def test_what_waits_behind_a_run_that_overstays_is_moved_and_billed_once(
    tmp_path: Path,
) -> None:
    with running_platform(tmp_path / "data", *TWO) as platform, platform.client() as client:
        client.models.register(NOOP)
        await until(lambda: len(client.workers.list()) == 2, "the second worker")
        for _ in range(5):
            client.run(NOOP.id, {"run_ms": 100})  # so the scheduler expects as much of every run
        here, elsewhere = (worker.worker_id for worker in client.workers.list())

        def state(request_id: str) -> RequestState:
            return client.get(request_id).state

        client.workers.cordon(elsewhere)
        stuck = client.submit(NOOP.id, {"run_ms": AGES_MS}).request_id
        await until(lambda: state(stuck) is RequestState.RUNNING, "the run that overstays")
        waiting = client.submit(NOOP.id, {"run_ms": 1}).request_id
        await until(lambda: state(waiting) is not RequestState.QUEUED, "a place behind it")
        client.workers.uncordon(elsewhere)
        await until(lambda: state(waiting).terminal, "the move")
        assert state(stuck) is RequestState.RUNNING, platform.logs()
        client.cancel(stuck)

        moved, ran = sorted(
            (line for line in client.ledger() if line.request_id == waiting),
            key=lambda line: line.attempt,
        )
        assert (moved.attempt, moved.worker_id, moved.waiver) == (1, here, "failed:moved")
        assert moved.metered_ms == moved.billed_ms == moved.price_nanodollars == 0
        assert (ran.attempt, ran.worker_id, ran.waiver) == (2, elsewhere, "")
        assert ran.outcome is RequestState.SUCCEEDED
        receipt = client.get(waiting).receipt
        assert receipt is not None
        assert (receipt.attempts, receipt.billed_ms) == (2, ran.billed_ms)
