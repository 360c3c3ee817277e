"""The GPU's own counters through NVML, where there is a GPU and `nvidia-ml-py` is installed."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One poll, in base units. None: this device does not say."""

    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    utilization_ratio: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    temperature_celsius: float | None = None
    ecc_errors: float | None = None
    pcie_replays: float | None = None
    clock_event_reasons: float | None = None


class Gpu:
    """One device, by its index or UUID. Raises NVMLError if there is none."""

    def __init__(self, nvml: ModuleType, name: str) -> None:
        self._nvml: Any = nvml
        self._handle = (
            self._nvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdecimal()
            else self._nvml.nvmlDeviceGetHandleByUUID(name)
        )
        product = self._nvml.nvmlDeviceGetName(self._handle)
        self.name: str = product.decode() if isinstance(product, bytes) else product
        self.total_bytes = int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total)

    @property
    def divided(self) -> bool:
        """Whether CUDA has only parts of it to show (MIG)."""
        try:
            now, _ = self._nvml.nvmlDeviceGetMigMode(self._handle)
        except self._nvml.NVMLError:
            return False
        return bool(now == self._nvml.NVML_DEVICE_MIG_ENABLE)

    @property
    def type_name(self) -> str:
        """The name of a price tier: `h100-80gb` from "NVIDIA H100 80GB HBM3"."""
        words = self.name.lower().replace("nvidia", "").replace("geforce", "").split()
        model = "-".join(word for word in words if not word.startswith("hbm"))
        if "gb" in model:
            return model
        return f"{model}-{round(self.total_bytes / 2**30)}gb"

    def read(self) -> Reading:
        """Never raises: each counter that the device lacks is None."""
        nvml, handle = self._nvml, self._handle

        def ask(question: Callable[[], float]) -> float | None:
            try:
                return float(question())
            except nvml.NVMLError:
                return None

        return Reading(
            memory_used_bytes=ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            memory_total_bytes=float(self.total_bytes),
            utilization_ratio=ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            power_watts=ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            energy_joules=ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
            temperature_celsius=ask(
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            ecc_errors=ask(
                lambda: nvml.nvmlDeviceGetTotalEccErrors(
                    handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                )
            ),
            pcie_replays=ask(lambda: nvml.nvmlDeviceGetPcieReplayCounter(handle)),
            clock_event_reasons=ask(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        )


def find_gpu(name: str) -> Gpu | None:
    """By index or UUID. None, without a word, where there is no GPU, driver or `nvidia-ml-py`."""
    try:
        # Optional: the extra `gpu` brings it.
        import pynvml  # type: ignore[import-untyped]  # the package has no annotations
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return Gpu(pynvml, name)
    except pynvml.NVMLError as error:
        logger.debug("NVML is not usable: %s", error)
        return None


class GpuMonitor(Collector):
    """Polls in its own thread, for NVML calls may block, and shows the last reading."""

    def __init__(self, gpu: Gpu, registry: CollectorRegistry) -> None:
        self._gpu = gpu
        self._reading = gpu.read()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="nvml", daemon=True)
        registry.register(self)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            with contextlib.suppress(Exception):  # a lost device must not end the polling
                self._reading = self._gpu.read()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * POLL_SECONDS)

    def collect(self) -> Iterator[Metric]:
        return metric_families(self._reading)


_GAUGES = (
    ("memory_used_bytes", "Device memory in use by all processes."),
    ("memory_total_bytes", "Device memory."),
    ("utilization_ratio", "Share of the last sample period in which a kernel ran."),
    ("power_watts", "Power draw."),
    ("temperature_celsius", "Temperature of the chip."),
    ("clock_event_reasons", "Bit mask of why clocks are held down, as NVML numbers them."),
)
_COUNTERS = (
    ("energy_joules", "Energy used since the driver was loaded."),
    ("ecc_errors", "Uncorrected memory errors since the driver was loaded."),
    ("pcie_replays", "PCIe packets sent again."),
)


def metric_families(reading: Reading) -> Iterator[Metric]:
    for name, text in _GAUGES:
        if (value := getattr(reading, name)) is not None:
            yield GaugeMetricFamily(f"quickthaw_worker_gpu_{name}", text, value=value)
    for name, text in _COUNTERS:
        if (value := getattr(reading, name)) is not None:
            yield CounterMetricFamily(f"quickthaw_worker_gpu_{name}", text, value=value)
