"""Where weights run: one buffer per component, filled by large copies from host memory.

CPU and CUDA take the same path. The CPU device has a capacity like a GPU's memory, so that
residency and eviction mean the same on a machine without one.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Protocol

import torch

from quickthaw.snapshot.format import TENSOR_ALIGNMENT
from quickthaw.snapshot.memory import PAGE_BYTES, Memory, round_up
from quickthaw.wire.errors import ResourceExhausted

_UNSHARED_REFERENCES = 2
"""To a memory's view: the memory's own, and the argument of `sys.getrefcount`."""


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

    def __init__(self, device: CpuDevice, nbytes: int, memory: Memory) -> None:
        self.nbytes = nbytes
        self._device = device
        self._memory: Memory | None = memory
        self._data: torch.Tensor | None = torch.frombuffer(memory.view, dtype=torch.uint8)

    @property
    def data(self) -> torch.Tensor:
        if self._data is None:
            raise RuntimeError("the buffer was freed")
        return self._data[: self.nbytes]

    def free(self) -> None:
        memory, self._memory, self._data = self._memory, None, None
        if memory is not None:
            self._device.give_back(self.nbytes, memory)

    def write(self, offset: int, source: memoryview) -> None:
        """Copies with the calling thread alone. Releases the GIL."""
        if self._memory is None:
            raise RuntimeError("the buffer was freed")
        if offset < 0 or offset + source.nbytes > self.nbytes:
            raise ValueError(f"{source.nbytes} bytes at {offset} do not fit into {self.nbytes}")
        # torch's copy would start a pool of its own threads in every reader.
        start = ctypes.addressof(ctypes.c_char.from_buffer(source))
        ctypes.memmove(self._memory.address + offset, start, source.nbytes)


class CpuDevice:
    """Runs on the CPU, holding at most `capacity_bytes` of weights. Thread-safe.

    Memory of freed buffers is kept for buffers of the same size, within the capacity: touching
    fresh memory takes several times as long as filling it, and models come back.
    """

    kind = "cpu"

    def __init__(self, capacity_bytes: int) -> None:
        self.total_bytes = capacity_bytes
        self.torch_device = torch.device("cpu")
        self._used_bytes = 0
        self._spare: list[Memory] = []  # the oldest first
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
            memory = self._reuse(nbytes)
        try:
            return CpuBuffer(self, nbytes, Memory(nbytes) if memory is None else memory)
        except BaseException:
            self.give_back(nbytes, None)
            raise

    def _reuse(self, nbytes: int) -> Memory | None:
        """Memory of that size, or room for some: what is spare and too much is let go."""
        wanted = round_up(max(nbytes, 1), PAGE_BYTES)
        for index, memory in enumerate(self._spare):
            if memory.nbytes == wanted:
                return self._spare.pop(index)
        while self._spare and self.spare_bytes + self._used_bytes > self.total_bytes:
            del self._spare[0]
        return None

    @property
    def spare_bytes(self) -> int:
        """Kept for coming buffers; part of what is free."""
        return sum(memory.nbytes for memory in self._spare)

    def give_back(self, nbytes: int, memory: Memory | None) -> None:
        """For `CpuBuffer.free`."""
        with self._lock:
            self._used_bytes -= nbytes
            # A tensor that outlived its buffer keeps its memory: others must not write there.
            if memory is not None and sys.getrefcount(memory.view) == _UNSHARED_REFERENCES:
                self._spare.append(memory)

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        assert isinstance(target, CpuBuffer)
        target.write(offset, source)

    def fence(self) -> Fence:
        return _Arrived()

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do: ordinary memory is as good as any."""

    def unregister(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do."""
