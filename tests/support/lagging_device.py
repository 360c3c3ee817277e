"""A device whose copies happen as late as they may: when somebody waits for them.

As on a GPU, where a copy is only enqueued. Whoever reuses a copy's source too early, or does not
wait, gets the wrong bytes here every time instead of now and then.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from quickthaw.snapshot import CpuDevice
from quickthaw.snapshot.device import CpuBuffer, DeviceBuffer, Fence


@dataclass(frozen=True, eq=False)
class _Copy:
    target: CpuBuffer
    offset: int
    source: memoryview


class LaggingDevice(CpuDevice):
    def __init__(self, capacity_bytes: int) -> None:
        super().__init__(capacity_bytes)
        self._order = threading.Lock()
        self.pending: list[_Copy] = []

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        assert isinstance(target, CpuBuffer)
        with self._order:
            self.pending.append(_Copy(target, offset, source))

    def fence(self) -> Fence:
        with self._order:
            return _LaggingFence(self, self.pending[-1] if self.pending else None)

    def run_until(self, last: _Copy) -> None:
        with self._order:
            if last not in self.pending:
                return
            for copy in self.pending[: self.pending.index(last) + 1]:
                copy.target.write(copy.offset, copy.source)
                self.pending.remove(copy)


class _LaggingFence:
    def __init__(self, device: LaggingDevice, last: _Copy | None) -> None:
        self._device = device
        self._last = last

    def wait(self) -> None:
        if self._last is not None:
            self._device.run_until(self._last)
