"""The GPU's counters: silent where there is none, base units where there is."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.worker.device import choose_device
from quickthaw.worker.nvml import Gpu, GpuMonitor, Reading, find_gpu, metric_families
from quickthaw.worker.settings import parse


class _NoSuchThing(Exception):
    pass


class FakeNvml(ModuleType):
    """As `pynvml` on an H100 whose PCIe counters the driver does not give."""

    NVMLError = _NoSuchThing
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(
        self,
        name: str = "NVIDIA H100 80GB HBM3",
        total: int = 80 << 30,
        mig: list[int] | None = None,
    ) -> None:
        super().__init__("pynvml")
        self._name = name
        self._total = total
        self._mig = mig

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetHandleByIndex": object(),
            "nvmlDeviceGetName": self._name,
            "nvmlDeviceGetMemoryInfo": type("M", (), {"total": self._total, "used": 5}),
            "nvmlDeviceGetUtilizationRates": type("U", (), {"gpu": 50}),
            "nvmlDeviceGetPowerUsage": 250_000,
            "nvmlDeviceGetTotalEnergyConsumption": 7_000,
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetTotalEccErrors": 0,
            "nvmlDeviceGetCurrentClocksEventReasons": 4,
        }

        def answer(*_: object) -> Any:
            if name == "nvmlDeviceGetMigMode" and self._mig is not None:
                return self._mig
            if name not in answers:
                raise _NoSuchThing(name)
            return answers[name]

        return answer


def test_a_machine_without_a_gpu_is_passed_over_in_silence(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        gpu = find_gpu("99")
    assert gpu is None
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "gib", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 80, "h100-80gb"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-sxm4-40gb"),
        ("NVIDIA L4", 24, "l4-24gb"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090-24gb"),
    ],
)
def test_a_gpus_name_becomes_a_price_tier(name: str, gib: int, expected: str) -> None:
    assert Gpu(FakeNvml(name, gib << 30), "0").type_name == expected


@pytest.mark.parametrize("mig", [None, [0, 0], [0, 1]])
def test_a_gpu_is_whole_unless_it_says_that_it_is_divided_now(mig: list[int] | None) -> None:
    assert not Gpu(FakeNvml(mig=mig), "0").divided


def test_a_divided_gpu_is_not_offered_as_a_whole_one() -> None:
    gpu = Gpu(FakeNvml(mig=[1, 1]), "0")
    flags = ["--scheduler", "127.0.0.1:1", "--device", "cuda"]
    with pytest.raises(SettingsInvalid, match=r"H100 80GB HBM3 is divided.*MIG-"):
        choose_device(parse(flags, {"QUICKTHAW_KEY": "key"}), lambda name: gpu, 16 << 30)


def test_readings_are_in_base_units_and_what_is_not_told_is_left_out() -> None:
    reading = Gpu(FakeNvml(), "0").read()
    assert reading.power_watts == 250
    assert reading.energy_joules == 7
    assert reading.utilization_ratio == 0.5
    assert reading.pcie_replays is None
    assert "quickthaw_worker_gpu_pcie_replays" not in {m.name for m in metric_families(reading)}
    assert not list(metric_families(Reading()))


def test_the_monitor_shows_its_last_reading() -> None:
    registry = CollectorRegistry()
    monitor = GpuMonitor(Gpu(FakeNvml(), "0"), registry)
    try:
        text = generate_latest(registry).decode()
    finally:
        monitor.close()
    assert "quickthaw_worker_gpu_memory_used_bytes 5.0" in text
    assert "quickthaw_worker_gpu_energy_joules_total 7.0" in text
