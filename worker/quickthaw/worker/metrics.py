"""The worker's Prometheus metrics, `quickthaw_worker_*`: base units, few label values."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from quickthaw.worker.attempts import LoadSummary, Tier

_LOAD_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_RUN_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class WorkerMetrics:
    """One set for each process, in its own registry."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.registry = registry
        prefix = "quickthaw_worker_"
        self.load_seconds = Histogram(
            prefix + "load_seconds",
            "Time to bring a model up for an attempt, by the farthest tier it came from.",
            ["tier"],
            buckets=_LOAD_BUCKETS,
            registry=registry,
        )
        self.run_seconds = Histogram(
            prefix + "run_seconds",
            "Time that attempts ran: what is metered.",
            buckets=_RUN_BUCKETS,
            registry=registry,
        )
        self.cold_starts = Counter(
            prefix + "cold_starts_total",
            "Attempts for which weights had to be moved to the device.",
            registry=registry,
        )
        self.resident_bytes = Gauge(
            prefix + "resident_bytes",
            "Bytes of components held, by tier.",
            ["tier"],
            registry=registry,
        )
        self.evictions = Counter(
            prefix + "evictions_total",
            "Components evicted, by tier.",
            ["tier"],
            registry=registry,
        )
        self.prefetches = Counter(
            prefix + "prefetches_total",
            "Prefetches asked for, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.errors = Counter(
            prefix + "errors_total",
            "Attempts that did not succeed, by reason.",
            ["reason"],
            registry=registry,
        )
        self.attempts_running = Gauge(
            prefix + "attempts_running", "Attempts whose meter is open.", registry=registry
        )
        self.stream_connected = Gauge(
            prefix + "stream_connected",
            "1 while the scheduler has welcomed this worker's stream, else 0.",
            registry=registry,
        )
        self.stream_reconnects = Counter(
            prefix + "stream_reconnects_total",
            "Times the stream to the scheduler was lost and tried again.",
            registry=registry,
        )
        self.events_dropped = Counter(
            prefix + "events_dropped_total",
            "Progress, previews and logs that gave way because the stream was slow, by kind.",
            ["kind"],
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            prefix + "event_loop_lag_seconds",
            "How late the event loop runs a timer.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self.remote_faults = Counter(
            prefix + "remote_faults_total",
            "Places that failed or sent wrong bytes and were left for another, by kind and reason.",
            ["kind", "reason"],
            registry=registry,
        )
        self.write_behind_failures = Counter(
            prefix + "write_behind_failures_total",
            "Snapshots from elsewhere that did not come to the disk after their load.",
            registry=registry,
        )
        self.artifacts_lost = Counter(
            prefix + "artifacts_lost_total",
            "Outputs that were sent with their end and could not be stored after it.",
            registry=registry,
        )
        self.withdrawn = Counter(
            prefix + "components_withdrawn_total",
            "Components whose content was not what their SHA-256 says.",
            registry=registry,
        )
        self.peer_sent_bytes = Counter(
            prefix + "peer_sent_bytes_total",
            "Bytes of components sent to other workers.",
            registry=registry,
        )
        self.compiled_calls = Counter(
            prefix + "compiled_block_calls_total",
            "Calls of repeated blocks, by how they ran; failed ones ran again as eager.",
            ["how"],
            registry=registry,
        )
        self.compiled_refused = Counter(
            prefix + "compiled_refused_total",
            "Compiled code that was there and not used: damaged, not ours, of another machine.",
            registry=registry,
        )
        self.compiled_builds = Counter(
            prefix + "compiled_builds_total",
            "Blocks compiled, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for tier in Tier:
            # Known from the start, so that a rate over them has no gap.
            self.resident_bytes.labels(tier.label)
            self.load_seconds.labels(tier.label)
        for tier in (Tier.VRAM, Tier.PINNED):
            self.evictions.labels(tier.label)

    def observe_load(self, load: LoadSummary) -> None:
        self.load_seconds.labels(load.start_tier.label).observe(load.total_seconds)
        if load.start_tier is not Tier.VRAM:
            self.cold_starts.inc()

    def set_resident(self, bytes_by_tier: Mapping[Tier, int]) -> None:
        for tier, size_bytes in bytes_by_tier.items():
            self.resident_bytes.labels(tier.label).set(size_bytes)
