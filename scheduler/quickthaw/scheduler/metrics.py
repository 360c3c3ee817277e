"""What the scheduler tells Prometheus. Labels take few values: never a request or a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptRecord, Tier
from quickthaw.scheduler.tallies import Spreads, Tallies
from quickthaw.wire.errors import BY_REASON, Internal

STANDARD_CLASS = "standard"
_NANODOLLARS = 1e9

_WAIT_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)
_COMMIT_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is counted anew for each scrape."""

    queued_by_priority: Mapping[str, int]
    open_by_state: Mapping[str, int]
    workers_by_state: Mapping[str, int]
    resident_bytes_by_tier: Mapping[str, int]
    calibration: Mapping[str, tuple[int, int, int]]
    """Of loads and of runs: estimates that were put to the test, and how often the truth was at
    most their p50 and at most their p95."""
    workers_wanted: int


class SchedulerMetrics:
    """`tenant_class` maps a tenant to its label."""

    def __init__(self, tenant_classes: Mapping[str, str] | None = None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._tenant_classes = tenant_classes or {}
        registry = self.registry
        self.submitted = Tallies(
            "quickthaw_requests_submitted", "Requests accepted.", registry
        ).labels()
        finished = Tallies("quickthaw_requests_finished", "Requests that ended.", registry, "state")
        self._queue_seconds = Spreads(
            "quickthaw_queue_seconds",
            "From a request's acceptance to the start of the attempt that ended it.",
            registry,
            _WAIT_BUCKETS,
        ).labels()
        placements = Tallies(
            "quickthaw_placements",
            "Attempts that began to run, by the farthest tier that a component came from.",
            registry,
            "tier",
        )
        self._cold_starts = Tallies(
            "quickthaw_cold_starts", "Attempts for which something had to be loaded.", registry
        ).labels()
        load_seconds = Spreads(
            "quickthaw_load_seconds",
            "Time to bring a model up before a run, by the farthest tier.",
            registry,
            _WAIT_BUCKETS,
            "tier",
        )
        self._run_seconds = Spreads(
            "quickthaw_run_seconds", "Metered run time.", registry, _WAIT_BUCKETS
        ).labels()
        self.evictions = Counter(
            "quickthaw_evictions", "Components that left VRAM by order.", registry=registry
        )
        self.attempts_lost = Counter(
            "quickthaw_attempts_lost", "Attempts whose worker was lost.", registry=registry
        )
        self._billed_seconds = Tallies(
            "quickthaw_billed_seconds", "Run time charged.", registry, "tenant_class"
        )
        self._billed_dollars = Tallies(
            "quickthaw_billed_dollars", "Money charged.", registry, "tenant_class"
        )
        self.budget_alerts = Counter(
            "quickthaw_budget_alerts",
            "Thresholds of budgets and credits that were crossed.",
            ["tenant_class", "kind"],
            registry=registry,
        )
        self.price_tables_refused = Counter(
            "quickthaw_price_tables_refused",
            "Changed price tables that were not taken over because they are wrong.",
            registry=registry,
        )
        self.failures = Counter(
            "quickthaw_request_failures",
            "Requests that ended FAILED or CANCELLED.",
            ["reason"],
            registry=registry,
        )
        self.errors = Counter(
            "quickthaw_rpc_errors",
            "Calls that were answered with an error.",
            ["method", "reason"],
            registry=registry,
        )
        self.streams = Gauge(
            "quickthaw_open_streams", "Streams open now.", ["kind"], registry=registry
        )
        self.commit_seconds = Histogram(
            "quickthaw_journal_commit_seconds",
            "One commit of the journal.",
            buckets=_COMMIT_BUCKETS,
            registry=registry,
        )
        self.commit_writes = Histogram(
            "quickthaw_journal_commit_writes",
            "Writes that shared one commit.",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.store_faulty = Gauge(
            "quickthaw_store_faulty",
            "1 while the store is full or does not answer.",
            registry=registry,
        )
        self.purged = Counter(
            "quickthaw_purged_rows",
            "Rows deleted because they were past the time for which they are kept.",
            ["table"],
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            "quickthaw_event_loop_lag_seconds",
            "How late the event loop ran a timer.",
            buckets=_COMMIT_BUCKETS,
            registry=registry,
        )
        # Known from the start: Prometheus sees no increase where a series begins with 1.
        for kind in ("attach", "watch", "realtime"):
            self.streams.labels(kind)
        for reason in BY_REASON:
            self.failures.labels(reason)
        self._of_tier = {
            tier: (placements.labels(label), load_seconds.labels(label))
            for tier in (None, *Tier)
            if (label := _tier_label(tier))
        }
        self._of_end = {
            state: finished.labels(state.value) for state in RequestState if state.terminal
        }

    def observe(self, read: Callable[[], Snapshot | None]) -> None:
        """Adds what is read at each scrape. `read` is called from the endpoint's thread; None, if
        the event loop did not answer in time, leaves the families out."""
        self.registry.register(_ScrapeCollector(read))

    def tenant_class(self, tenant: str) -> str:
        return self._tenant_classes.get(tenant, STANDARD_CLASS)

    def commit(self, seconds: float, writes: int) -> None:
        self.commit_seconds.observe(seconds)
        self.commit_writes.observe(writes)

    def expect_bugs(self, methods: Iterable[str]) -> None:
        """That there have been none is told too, of each `SERVICE/METHOD`."""
        for method in methods:
            self.errors.labels(method, Internal.reason)

    def rpc_error(self, method: str, reason: str) -> None:
        self.errors.labels(method.removeprefix("/quickthaw.v1."), reason).inc()

    def evicted(self, components: int) -> None:
        self.evictions.inc(components)

    def began(self, attempt: AttemptRecord) -> None:
        """An attempt has begun to run."""
        placements, load_seconds = self._of_tier[attempt.start_tier]
        placements.inc()
        load_seconds.observe(attempt.load_ms / 1000)
        if attempt.start_tier is not Tier.VRAM:
            self._cold_starts.inc()

    def billed(self, command: commands.JournalEnd) -> None:
        """An attempt has ended, if the request had one open."""
        line = command.ledger
        if line is None:
            return
        for alert in command.settled.alerts:
            self.budget_alerts.labels(
                self.tenant_class(alert.account.tenant), alert.kind.value
            ).inc()
        paying = self.tenant_class(line.tenant)
        self._billed_seconds.labels(paying).inc(line.billed_ms / 1000)
        self._billed_dollars.labels(paying).inc(line.price_nanodollars / _NANODOLLARS)
        if line.metered_ms:
            self._run_seconds.observe(line.metered_ms / 1000)
        if line.waiver == "worker_lost":
            self.attempts_lost.inc()

    def ended(self, command: commands.TellEnd) -> None:
        end = command.end
        self._of_end[end.state].inc()
        self._queue_seconds.observe(end.receipt.queue_ms / 1000)
        if end.failure is not None:
            self.failures.labels(end.failure.reason).inc()


def _tier_label(tier: Tier | None) -> str:
    return "unknown" if tier is None else tier.name.lower()


class _ScrapeCollector(Collector):
    def __init__(self, read: Callable[[], Snapshot | None]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        snapshot = self._read()
        if snapshot is None:
            return
        for name, text, label, numbers in (
            (
                "quickthaw_queue_requests",
                "Requests that wait for a worker.",
                "priority",
                snapshot.queued_by_priority,
            ),
            (
                "quickthaw_open_requests",
                "Requests that have not ended.",
                "state",
                snapshot.open_by_state,
            ),
            (
                "quickthaw_workers",
                "Workers within their lease.",
                "state",
                snapshot.workers_by_state,
            ),
            (
                "quickthaw_resident_bytes",
                "Components held by all workers.",
                "tier",
                snapshot.resident_bytes_by_tier,
            ),
        ):
            family = GaugeMetricFamily(name, text, labels=[label])
            for value, number in numbers.items():
                family.add_metric([value], number)
            yield family
        yield GaugeMetricFamily(
            "quickthaw_workers_wanted",
            "Workers that the traffic of late and the endpoints' settings need.",
            value=snapshot.workers_wanted,
        )
        yield from _calibration(snapshot.calibration)


def _calibration(counts: Mapping[str, tuple[int, int, int]]) -> Iterable[Metric]:
    tested = CounterMetricFamily(
        "quickthaw_estimates_tested",
        "Loads and runs for which there was a learned estimate.",
        labels=["kind"],
    )
    under = CounterMetricFamily(
        "quickthaw_estimates_kept",
        "Of these, those that took no longer than the estimate.",
        labels=["kind", "estimate"],
    )
    for kind, (observations, under_p50, under_p95) in counts.items():
        tested.add_metric([kind], observations)
        under.add_metric([kind, "p50"], under_p50)
        under.add_metric([kind, "p95"], under_p95)
    yield tested
    yield under
