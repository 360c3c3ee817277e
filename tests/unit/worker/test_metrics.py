"""The names and labels that dashboards rely on."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from quickthaw.worker.attempts import ComponentLoad, LoadSummary, Tier
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.nvml import Reading, metric_families

BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_watts", "_joules", "_celsius")


class _Fixed:
    def collect(self) -> object:
        return metric_families(Reading(1, 2, 0.5, 4, 5, 6, 7, 8, 9))


def everything() -> str:
    """All metrics of a worker with a GPU, as Prometheus reads them."""
    metrics = WorkerMetrics()
    metrics.errors.labels("ENGINE_FAILED").inc()
    metrics.events_dropped.labels("preview").inc()
    gpu = CollectorRegistry()
    gpu.register(_Fixed())  # type: ignore[arg-type]  # has all that the registry calls
    return (generate_latest(metrics.registry) + generate_latest(gpu)).decode()


def test_names_have_the_prefix_base_units_and_help() -> None:
    families = list(text_string_to_metric_families(everything()))
    assert len(families) > 15
    for family in families:
        # What a process tells of itself has the same names everywhere.
        assert family.name.startswith(("quickthaw_worker_", "process_")), family.name
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith(BASE_UNITS), family.name
        for word in ("_ms", "_mb", "_percent", "_milliseconds"):
            assert word not in family.name


def test_prometheus_own_linter_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=everything(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_start_is_cold_only_if_something_had_to_move() -> None:
    metrics = WorkerMetrics()
    part = ComponentLoad("unet", "d", 8, Tier.PINNED, "", 0.0, 0.0)
    metrics.observe_load(LoadSummary((part,), total_seconds=0.25))
    metrics.observe_load(LoadSummary())
    value = metrics.registry.get_sample_value
    assert value("quickthaw_worker_cold_starts_total") == 1
    assert value("quickthaw_worker_load_seconds_sum", {"tier": "pinned"}) == 0.25
    assert value("quickthaw_worker_load_seconds_count", {"tier": "vram"}) == 1
