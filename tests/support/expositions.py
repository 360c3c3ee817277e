"""What the parts tell Prometheus before anything has happened."""

from __future__ import annotations

from dataclasses import fields

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from quickthaw.gateway.metrics import GatewayMetrics
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Tier, WorkerState
from quickthaw.scheduler.metrics import SchedulerMetrics, Snapshot
from quickthaw.scheduler.server import METHODS
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.nvml import Reading, metric_families


def families() -> dict[str, list[Metric]]:
    """Of each part, those of a worker's GPU included."""
    scheduler, gateway, worker = SchedulerMetrics(), CollectorRegistry(), WorkerMetrics()
    scheduler.expect_bugs(METHODS)
    scheduler.observe(
        lambda: Snapshot(
            queued_by_priority={"normal": 0},
            open_by_state={state.value: 0 for state in RequestState if not state.terminal},
            workers_by_state={state.value: 0 for state in WorkerState},
            resident_bytes_by_tier={tier.name.lower(): 0 for tier in Tier},
            calibration={"load": (0, 0, 0), "run": (0, 0, 0)},
            workers_wanted=0,
        )
    )
    GatewayMetrics(gateway)
    everything = Reading(*(0.0 for _ in fields(Reading)))
    return {
        "scheduler": list(scheduler.registry.collect()),
        "gateway": list(gateway.collect()),
        "worker": [*worker.registry.collect(), *metric_families(everything)],
    }


def series(metrics: list[Metric]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Names and labels, as Prometheus keeps them."""
    return {
        (sample.name, frozenset(sample.labels.items()))
        for metric in metrics
        for sample in metric.samples
    }


def sample_names(metric: Metric) -> set[str]:
    """Under which its samples go, though there are none yet."""
    match metric.type:
        case "counter":
            return {f"{metric.name}_total"}
        case "histogram":
            return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
        case _:
            return {metric.name}
