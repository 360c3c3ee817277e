"""Where weights run: one buffer per component, filled by large copies from host memory.

CPU and CUDA take the same path. The CPU device has a capacity like a GPU's memory, so that
residency and eviction mean the same on a machine without one.
"""

from __future__ import annotations

import threading
from typing import Protocol

import torch

from quickthaw.snapshot.format import TENSOR_ALIGNMENT
from quickthaw.snapshot.memory import Memory, round_up
from quickthaw.wire.errors import ResourceExhausted


class Fence(Protocol):
    """A point in the order of copies."""

    def wait(self) -> None:
        """Returns when every copy enqueued before the fence has arrived."""
        ...


class DeviceBuffer(Protocol):
    """One component's bytes on the device."""

    @property
    def data(self) -> torch.Tensor:
        """uint8, one dimension, at least 256 B aligned and as many bytes long."""
        ...

    @property
    def nbytes(self) -> int: ...

    def free(self) -> None:
        """Gives the memory back; views of it must be gone. A second call does nothing."""
        ...


class Device(Protocol):
    """A place to run modules."""

    @property
    def kind(self) -> str: ...

    @property
    def torch_device(self) -> torch.device: ...

    @property
    def total_bytes(self) -> int: ...

    @property
    def free_bytes(self) -> int: ...

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Raises `ResourceExhausted` with `metadata["resource"] == "vram"`."""
        ...

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        """Enqueues a copy to byte `offset`; `source` must stay as it is until a later fence."""
        ...

    def fence(self) -> Fence: ...

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Pins host memory for fast copies, where that means something."""
        ...

    def unregister(self, memory: Memory, chunk_bytes: int) -> None: ...


def full(wanted: int, free: int, kind: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"the {kind} device has {free} bytes free of the {wanted} that a component needs; "
        "evict something first",
        metadata={"resource": "vram", "wanted_bytes": str(wanted), "free_bytes": str(free)},
    )


class _Arrived:
    """Copies on the CPU are done when `copy` returns."""

    def wait(self) -> None:
        return


class CpuBuffer:
    """Ordinary memory in huge pages, counted against its device's capacity."""

    def __init__(self, device: CpuDevice, nbytes: int) -> None:
        self.nbytes = nbytes
        self._device = device
        self._memory: Memory | None = Memory(nbytes)
        self._data: torch.Tensor | None = torch.frombuffer(self._memory.view, dtype=torch.uint8)

    @property
    def data(self) -> torch.Tensor:
        if self._data is None:
            raise RuntimeError("the buffer was freed")
        return self._data

    def free(self) -> None:
        if self._data is not None:
            self._data = self._memory = None
            self._device.give_back(self.nbytes)


class CpuDevice:
    """Runs on the CPU, holding at most `capacity_bytes` of weights. Thread-safe."""

    kind = "cpu"

    def __init__(self, capacity_bytes: int) -> None:
        self.total_bytes = capacity_bytes
        self.torch_device = torch.device("cpu")
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self._used_bytes

    def allocate(self, nbytes: int) -> CpuBuffer:
        nbytes = round_up(nbytes, TENSOR_ALIGNMENT)
        with self._lock:
            if nbytes > self.free_bytes:
                raise full(nbytes, self.free_bytes, self.kind)
            self._used_bytes += nbytes
        try:
            return CpuBuffer(self, nbytes)
        except BaseException:
            self.give_back(nbytes)
            raise

    def give_back(self, nbytes: int) -> None:
        """For `CpuBuffer.free`."""
        with self._lock:
            self._used_bytes -= nbytes

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        size = source.nbytes
        target.data[offset : offset + size].copy_(torch.frombuffer(source, dtype=torch.uint8))

    def fence(self) -> Fence:
        return _Arrived()

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do: ordinary memory is as good as any."""

    def unregister(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do."""
