"""Whatever crashes and whatever is lost, every accepted request ends exactly once."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.model import Outcome
from quickthaw.scheduler.core.pricing import WORKER_LOST, price_nanodollars
from sim.cluster import Cluster
from sim.seeds import CHUNKS, chunk


@pytest.mark.parametrize("number", range(CHUNKS))
def test_every_accepted_request_ends_exactly_once_whatever_crashes(number: int) -> None:
    for seed in chunk(number):
        cluster = Cluster(seed)
        try:
            cluster.run()
            _check_the_books(cluster)
        except Exception as error:
            raise AssertionError(f"seed {seed} failed: {error!r}") from error


def _check_the_books(cluster: Cluster) -> None:
    rows, ledger = cluster.journal.rows, cluster.journal.ledger
    assert all(row.ends == 1 and row.open is None for row in rows.values())
    assert all(count == 1 for count in cluster.told.values()), "a caller was told twice"
    # One line for each attempt that the journal ever knew, and lines for nothing else.
    lines = {(line.request_id, line.attempt) for line in ledger.values()}
    assert len(lines) == len(ledger)
    assert all(1 <= attempt <= rows[request_id].attempts for request_id, attempt in lines)
    for line in ledger.values():
        ran_ms = cluster.workers[line.worker_id].ran_ms.get(line.attempt_id)
        if line.waiver == WORKER_LOST:
            assert line.billed_ms == 0
        elif line.outcome is Outcome.FAILED:
            assert line.waiver.startswith("failed:")
            assert line.price_nanodollars == 0
        else:
            assert line.billed_ms == line.metered_ms == ran_ms
            rate = cluster.machine.worker(line.worker_id)
            assert rate is None or line.price_nanodollars == price_nanodollars(
                line.billed_ms, line.rate_nanodollars_per_second
            )


def test_a_seed_repeats_a_run_exactly() -> None:
    runs = []
    for _ in range(2):
        cluster = Cluster(7)
        cluster.run()
        runs.append((cluster.now_ms, cluster.journal.ledger))
    assert runs[0] == runs[1]
