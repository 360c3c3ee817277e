"""What the scheduler tells Prometheus. Labels take few values: never a request or a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Tier

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
        self._tenant_classes = tenant_classes or {}
        registry = self.registry
        self.submitted = Counter(
            "quickthaw_requests_submitted", "Requests accepted.", registry=registry
        )
        self.finished = Counter(
            "quickthaw_requests_finished", "Requests that ended.", ["state"], registry=registry
        )
        self.queue_seconds = Histogram(
            "quickthaw_queue_seconds",
            "From a request's acceptance to the start of the attempt that ended it.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self.placements = Counter(
            "quickthaw_placements",
            "Attempts that began to run, by the farthest tier that a component came from.",
            ["tier"],
            registry=registry,
        )
        self.cold_starts = Counter(
            "quickthaw_cold_starts",
            "Attempts for which something had to be loaded.",
            registry=registry,
        )
        self.load_seconds = Histogram(
            "quickthaw_load_seconds",
            "Time to bring a model up before a run, by the farthest tier.",
            ["tier"],
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self.run_seconds = Histogram(
            "quickthaw_run_seconds", "Metered run time.", buckets=_WAIT_BUCKETS, registry=registry
        )
        self.evictions = Counter(
            "quickthaw_evictions", "Components that left VRAM by order.", registry=registry
        )
        self.attempts_lost = Counter(
            "quickthaw_attempts_lost", "Attempts whose worker was lost.", registry=registry
        )
        self.billed_seconds = Counter(
            "quickthaw_billed_seconds", "Run time charged.", ["tenant_class"], registry=registry
        )
        self.billed_dollars = Counter(
            "quickthaw_billed_dollars", "Money charged.", ["tenant_class"], registry=registry
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
        for kind in ("attach", "watch", "realtime"):
            self.streams.labels(kind)
        # Looking a label up costs more than the counting, and these are counted for each request.
        self._of_tier = {
            tier: (self.placements.labels(label), self.load_seconds.labels(label))
            for tier in (None, *Tier)
            if (label := _tier_label(tier))
        }
        self._of_end = {
            state: self.finished.labels(state.value) for state in RequestState if state.terminal
        }
        self._of_class: dict[str, tuple[Counter, Counter]] = {}

    def _billed(self, tenant_class: str) -> tuple[Counter, Counter]:
        if (counters := self._of_class.get(tenant_class)) is None:
            counters = self._of_class[tenant_class] = (
                self.billed_seconds.labels(tenant_class),
                self.billed_dollars.labels(tenant_class),
            )
        return counters

    def observe(self, read: Callable[[], Snapshot | None]) -> None:
        """Adds what is read at each scrape. `read` is called from the endpoint's thread; None, if
        the event loop did not answer in time, leaves the families out."""
        self.registry.register(_ScrapeCollector(read))

    def tenant_class(self, tenant: str) -> str:
        return self._tenant_classes.get(tenant, STANDARD_CLASS)

    def commit(self, seconds: float, writes: int) -> None:
        self.commit_seconds.observe(seconds)
        self.commit_writes.observe(writes)

    def rpc_error(self, method: str, reason: str) -> None:
        self.errors.labels(method.removeprefix("/quickthaw.v1."), reason).inc()

    def evicted(self, components: int) -> None:
        self.evictions.inc(components)

    def count(self, command: object) -> None:
        """What a write of the core's says about attempts."""
        match command:
            case commands.JournalProgress(attempt=attempt, state=RequestState.RUNNING):
                placements, load_seconds = self._of_tier[attempt.start_tier]
                placements.inc()
                load_seconds.observe(attempt.load_ms / 1000)
                if attempt.start_tier is not Tier.VRAM:
                    self.cold_starts.inc()
            case commands.JournalEnd(ledger=line, settled=settled) if line is not None:
                for alert in settled.alerts:
                    self.budget_alerts.labels(
                        self.tenant_class(alert.account.tenant), alert.kind.value
                    ).inc()
                billed_seconds, billed_dollars = self._billed(self.tenant_class(line.tenant))
                billed_seconds.inc(line.billed_ms / 1000)
                billed_dollars.inc(line.price_nanodollars / _NANODOLLARS)
                if line.metered_ms:
                    self.run_seconds.observe(line.metered_ms / 1000)
                if line.waiver == "worker_lost":
                    self.attempts_lost.inc()
            case _:
                pass

    def ended(self, command: commands.TellEnd) -> None:
        end = command.end
        self._of_end[end.state].inc()
        self.queue_seconds.observe(end.receipt.queue_ms / 1000)
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
