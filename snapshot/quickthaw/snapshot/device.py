"""Where weights run: one buffer per component, filled by large copies from host memory.

A CPU is a device whose memory is the host's: there the slab's range is the buffer, and nothing is
copied. It has a capacity like a GPU's memory, so that residency and eviction mean the same.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from quickthaw.snapshot.format import TENSOR_ALIGNMENT
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.memory import PAGE_BYTES, Memory, round_up
from quickthaw.wire.errors import ResourceExhausted


class Fence(Protocol):
    """A point in the order of copies."""

    def wait(self) -> None:
        """Returns when every copy enqueued before the fence has arrived."""
        ...

    def order(self) -> None:
        """Lets work that the calling thread enqueues from now on come after those copies."""
        ...


class DeviceBuffer(Protocol):
    """One component's bytes on the device."""

    @property
    def data(self) -> torch.Tensor:
        """uint8, one dimension, at least 256 B aligned and as many bytes long."""
        ...

    @property
    def nbytes(self) -> int: ...

    @property
    def host_view(self) -> memoryview | None:
        """The bytes, in whole pages, where they are host memory that can be read into."""
        ...

    @property
    def room(self) -> HostRange | None:
        """The host range that the buffer is made of, if it is."""
        ...

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

    @property
    def pins(self) -> bool:
        """Whether `register` makes copies from host memory faster."""
        ...

    def wrap(self, room: HostRange, nbytes: int) -> DeviceBuffer | None:
        """A buffer that is `room` itself and holds it, where host memory is the device's own.

        None where it is not. Raises as `allocate`.
        """
        ...

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

    def order(self) -> None:
        return


class CpuBuffer:
    """Host memory, counted against its device's capacity: its own, or a range of the slab.

    `view`: made for this buffer alone. `give_back` is called when nothing sees the memory any more,
    which is at `free` unless a tensor outlives it; it may be called in any thread, at any time.
    """

    def __init__(
        self,
        device: CpuDevice,
        nbytes: int,
        view: memoryview,
        room: HostRange | None,
        give_back: Callable[[], None],
    ) -> None:
        self.nbytes = nbytes
        self.room = room
        self._device = device
        self._view: memoryview | None = view
        self._data: torch.Tensor | None = torch.frombuffer(view, dtype=torch.uint8)
        # Tensors hold the view, so a tensor that outlives the buffer keeps others out.
        weakref.finalize(view, give_back).atexit = False

    @property
    def data(self) -> torch.Tensor:
        if self._data is None:
            raise RuntimeError("the buffer was freed")
        return self._data[: self.nbytes]

    @property
    def host_view(self) -> memoryview:
        if self._view is None:
            raise RuntimeError("the buffer was freed")
        return self._view

    def free(self) -> None:
        if self._view is not None:
            self._view = self._data = self.room = None
            self._device.count_freed(self.nbytes)

    def write(self, offset: int, source: memoryview) -> None:
        """Copies with the calling thread alone. Releases the GIL."""
        if self._view is None:
            raise RuntimeError("the buffer was freed")
        if offset < 0 or offset + source.nbytes > self.nbytes:
            raise ValueError(f"{source.nbytes} bytes at {offset} do not fit into {self.nbytes}")
        # torch's copy would start a pool of its own threads in every reader.
        place = ctypes.addressof(ctypes.c_char.from_buffer(self._view)) + offset
        ctypes.memmove(place, ctypes.addressof(ctypes.c_char.from_buffer(source)), source.nbytes)


class CpuDevice:
    """Runs on the CPU, holding at most `capacity_bytes` of weights. Thread-safe.

    Its memory is the host's: a buffer is a range of the slab where there is room, so that both
    tiers are one copy of the bytes. Memory of freed buffers of its own is kept for buffers of the
    same size, within the capacity: touching fresh memory takes several times as long as filling it.
    """

    kind = "cpu"
    pins = False

    def __init__(self, capacity_bytes: int) -> None:
        self.total_bytes = capacity_bytes
        self.torch_device = torch.device("cpu")
        self._used_bytes = 0
        self._spare: list[Memory] = []  # the oldest first
        self._returned: deque[Memory] = deque()  # by finalizers, which must not take the lock
        self._lock = threading.Lock()

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self._used_bytes

    def wrap(self, room: HostRange, nbytes: int) -> CpuBuffer | None:
        nbytes = round_up(nbytes, TENSOR_ALIGNMENT)
        with self._lock:
            self._count(nbytes)
        room.retain()
        return CpuBuffer(self, nbytes, room.view[:], room, room.release_later)

    def allocate(self, nbytes: int) -> CpuBuffer:
        nbytes = round_up(nbytes, TENSOR_ALIGNMENT)
        with self._lock:
            self._count(nbytes)
            memory = self._reuse(nbytes)
        try:
            memory = memory or Memory(nbytes)
        except BaseException:
            self.count_freed(nbytes)
            raise
        return CpuBuffer(self, nbytes, memory.view[:], None, partial(self._returned.append, memory))

    def _count(self, nbytes: int) -> None:
        if nbytes > self.free_bytes:
            raise full(nbytes, self.free_bytes, self.kind)
        self._used_bytes += nbytes

    def _reuse(self, nbytes: int) -> Memory | None:
        """Memory of that size, or room for some: what is spare and too much is let go."""
        self._settle()
        wanted = round_up(max(nbytes, 1), PAGE_BYTES)
        for index, memory in enumerate(self._spare):
            if memory.nbytes == wanted:
                return self._spare.pop(index)
        while self._spare and self._spare_bytes() + self._used_bytes > self.total_bytes:
            del self._spare[0]
        return None

    def _settle(self) -> None:
        while self._returned:
            self._spare.append(self._returned.popleft())

    def _spare_bytes(self) -> int:
        return sum(memory.nbytes for memory in self._spare)

    @property
    def spare_bytes(self) -> int:
        """Kept for coming buffers; part of what is free."""
        with self._lock:
            self._settle()
            return self._spare_bytes()

    def count_freed(self, nbytes: int) -> None:
        """For `CpuBuffer.free`."""
        with self._lock:
            self._used_bytes -= nbytes

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        assert isinstance(target, CpuBuffer)
        target.write(offset, source)

    def fence(self) -> Fence:
        return _Arrived()

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do: ordinary memory is as good as any."""

    def unregister(self, memory: Memory, chunk_bytes: int) -> None:
        """Nothing to do."""
