"""A device with memory of its own, like a GPU, whose copies happen as late as they may.

They happen when somebody waits for them. Whoever reuses a copy's source too early, or does not
wait, gets the wrong bytes here every time instead of now and then.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from quickthaw.snapshot import CpuDevice
from quickthaw.snapshot.device import CpuBuffer, DeviceBuffer, Fence
from quickthaw.snapshot.host_range import HostRange


class OwnBuffer:
    """Memory that only copies of the device reach."""

    host_view = None
    room = None

    def __init__(self, memory: CpuBuffer) -> None:
        self.memory = memory
        self.nbytes = memory.nbytes

    @property
    def data(self) -> torch.Tensor:
        return self.memory.data

    def free(self) -> None:
        self.memory.free()


@dataclass(frozen=True, eq=False)
class _Copy:
    target: OwnBuffer
    offset: int
    source: memoryview


class LaggingDevice:
    kind = "cpu"
    pins = False

    def __init__(self, capacity_bytes: int) -> None:
        self._memory = CpuDevice(capacity_bytes)
        self._order = threading.Lock()
        self.torch_device = self._memory.torch_device
        self.total_bytes = capacity_bytes
        self.pending: list[_Copy] = []
        self.pending_bytes_max = 0
        self.register = self._memory.register
        self.unregister = self._memory.unregister

    @property
    def free_bytes(self) -> int:
        return self._memory.free_bytes

    def wrap(self, room: HostRange, nbytes: int) -> DeviceBuffer | None:
        return None

    def allocate(self, nbytes: int) -> OwnBuffer:
        return OwnBuffer(self._memory.allocate(nbytes))

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        assert isinstance(target, OwnBuffer)
        with self._order:
            self.pending.append(_Copy(target, offset, source))
            pending_bytes = sum(copy.source.nbytes for copy in self.pending)
            self.pending_bytes_max = max(self.pending_bytes_max, pending_bytes)

    def fence(self) -> Fence:
        with self._order:
            return _LaggingFence(self, self.pending[-1] if self.pending else None)

    def run_until(self, last: _Copy) -> None:
        with self._order:
            if last not in self.pending:
                return
            for copy in self.pending[: self.pending.index(last) + 1]:
                copy.target.memory.write(copy.offset, copy.source)
                self.pending.remove(copy)


class _LaggingFence:
    def __init__(self, device: LaggingDevice, last: _Copy | None) -> None:
        self._device = device
        self._last = last

    def wait(self) -> None:
        if self._last is not None:
            self._device.run_until(self._last)

    def order(self) -> None:
        """Work on this device happens at once, so its copies must have happened before."""
        self.wait()
