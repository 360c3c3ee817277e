"""What is counted for every request reads like what the client library counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from quickthaw.scheduler.tallies import Spreads, Tallies

BOUNDS = (0.001, 0.5, 1, 300)


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scrape gives, but for when it began to count."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.sampled_from([0.0, 0.001, 0.002, 0.5, 1.0, 299.0, 300.0, 301.0])))
def test_histograms_agree_with_the_client_librarys(values: list[float]) -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    known = Histogram("wait_seconds", "Waits.", ["tier"], buckets=BOUNDS, registry=theirs)
    mine = Spreads("wait_seconds", "Waits.", ours, BOUNDS, "tier")
    for value in values:
        known.labels("disk").observe(value)
        mine.labels("disk").observe(value)
    known.labels("vram")
    mine.labels("vram")
    assert samples(ours) == samples(theirs)


def test_counters_agree_with_the_client_librarys() -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    plain = Counter("accepted", "Accepted.", registry=theirs)
    ended = Counter("ended", "Ended.", ["state"], registry=theirs)
    our_plain = Tallies("accepted", "Accepted.", ours).labels()
    our_ended = Tallies("ended", "Ended.", ours, "state")
    plain.inc()
    our_plain.inc()
    for state, amount in (("failed", 0.5), ("succeeded", 2.0), ("failed", 1.0)):
        ended.labels(state).inc(amount)
        our_ended.labels(state).inc(amount)
    assert samples(ours) == samples(theirs)
