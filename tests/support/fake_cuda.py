"""torch's CUDA half over host memory, as strict as a driver and as late as one may be.

`quickthaw.snapshot.cuda` runs on it as it is (`installed`): contexts are made as the runtime makes
them and are current to threads or not, host memory is registered by ranges, segments come from an
allocator of torch's sizes, and a copy happens when somebody waits for it and no sooner. What a
kernel would read happens at once here, so ordering the default stream after an event is waiting.
Memory that nothing was copied to is NaN, whatever type it is read as.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from quickthaw.snapshot.driver import CudaDriver
from quickthaw.snapshot.memory import Memory, round_up
from support.fake_cuda_driver import FakeDriver

MIB = 1 << 20
CONTEXT_BYTES = 512 * MIB
_POISON = 0xFF


class OnDevice(torch.Tensor):
    """Device memory: copies into it go through the fake."""

    fake: FakeCuda

    def copy_(self, other: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        self.fake.copy(self.data_ptr(), other, blocking=not non_blocking)
        return self


class Stream:
    def __init__(self, index: int) -> None:
        self.index = index
        self.pending: list[Callable[[], None]] = []
        self.done = 0
        """Copies that have happened, ever."""


class Pool:
    """`torch.cuda.MemPool`: its segments go back to the driver with it, if nothing is in them."""

    def __init__(self, fake: FakeCuda) -> None:
        self.segments: list[_Segment] = []
        weakref.finalize(self, fake.drop, fake.index, self.segments).atexit = False


@dataclass(eq=False)
class _Segment:
    nbytes: int
    allocated: int
    alive: bool = True
    kept: bool = True
    """By its pool: torch calls what is free in it its cache."""


class FakeCuda:
    """`gpus` devices of `total_bytes`. `library` is the driver, `torch` what stands for torch."""

    def __init__(self, gpus: int = 1, total_bytes: int = 2048 * MIB) -> None:
        self.total_bytes = total_bytes
        self.contexts: set[int] = set()
        self.others_bytes = 0
        """What other processes hold of each device."""
        self.pageable_copies = 0
        self.copies = 0
        self._broken: int | None = None
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._streams: list[Stream] = []
        self._segments: dict[int, list[_Segment]] = {index: [] for index in range(gpus)}
        self._default = [Stream(index) for index in range(gpus)]
        self.driver = FakeDriver(self._driver_sees)
        self.torch = _Torch(self, gpus)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        with (
            patch("quickthaw.snapshot.cuda.torch", self.torch),
            patch("quickthaw.snapshot.cuda.CudaDriver", lambda: CudaDriver(self.driver.library)),
        ):
            yield

    # ---- contexts and threads ------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The calling thread's device."""
        return getattr(self._thread, "index", 0)

    def _set_device(self, index: int) -> None:
        """As torch does: nothing if it is that already, else the runtime's call, which since CUDA
        12 makes the context."""
        if index != self.index:
            self._thread.index = index
            self.use()

    def use(self, index: int | None = None) -> None:
        """What every call that needs the device does first."""
        self.contexts.add(self.index if index is None else index)
        self._thread.has_context = True
        if self._broken is not None:
            error: Any = torch.AcceleratorError(
                "CUDA error: an illegal memory access was encountered"
            )
            error.error_code = self._broken
            raise error

    def _driver_sees(self) -> tuple[bool, int]:
        return getattr(self._thread, "has_context", False), self._broken or 0

    def break_down(self) -> None:
        """From now on every call is answered with the same error."""
        self._broken = 700

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, index = self.index, _index(device)
        self._set_device(index)
        try:
            yield
        finally:
            # Without a context of its own the device that was before is only remembered.
            if before in self.contexts:
                self._set_device(before)
            self._thread.index = before

    # ---- streams -------------------------------------------------------------------------------

    def new_stream(self, device: Any) -> Stream:
        with self.device(device):
            self.use()
            self._streams.append(Stream(_index(device)))
            return self._streams[-1]

    def current_stream(self, device: Any = None) -> Stream:
        index = self.index if device is None else _index(device)
        return getattr(self._thread, f"stream{index}", self._default[index])

    def _set_stream(self, stream: Stream) -> None:
        self._set_device(stream.index)
        setattr(self._thread, f"stream{stream.index}", stream)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, there = self.current_stream(), self.current_stream(stream)
        self._set_stream(stream)
        try:
            yield
        finally:
            self._set_stream(there)
            self._set_stream(before)

    def run_until(self, stream: Stream, count: int) -> None:
        with self._lock:
            while stream.done < count:
                stream.pending.pop(0)()
                stream.done += 1

    def enqueued(self, stream: Stream) -> int:
        with self._lock:
            return stream.done + len(stream.pending)

    def synchronize(self, device: Any = None) -> None:
        index = self.index if device is None else _index(device)
        with self.device(SimpleNamespace(index=index)):
            self.use(index)
        for stream in self._streams:
            if stream.index == index:
                self.run_until(stream, self.enqueued(stream))

    def copy(self, target: int, source: torch.Tensor, *, blocking: bool) -> None:
        self.use()
        start, nbytes = source.data_ptr(), source.nbytes
        pinned = self.driver.covers(start, nbytes)
        if pinned is None:
            raise torch.AcceleratorError("CUDA error: invalid argument")  # over two registrations
        stream = self.current_stream()

        def move() -> None:
            if pinned and not self.driver.covers(start, nbytes):
                self.break_down()  # the copy engine met memory that is not there for it any more
                return
            ctypes.memmove(target, start, nbytes)

        with self._lock:
            self.copies += 1
            stream.pending.append(move)
            end = self.enqueued(stream)
        if stream is self._default[stream.index] or blocking or not pinned:
            self.pageable_copies += not pinned
            self.run_until(stream, end)

    # ---- memory --------------------------------------------------------------------------------

    def empty(self, nbytes: int, dtype: torch.dtype, device: Any) -> torch.Tensor:
        assert dtype is torch.uint8
        index = _index(device)
        self.use(index)
        segment = _Segment(_segment_bytes(nbytes), round_up(max(nbytes, 1), 512))
        if segment.nbytes > self.mem_get_info(device)[0]:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {nbytes} bytes")
        self._segments[index].append(segment)
        pool = getattr(self._thread, "pool", None)
        if pool is not None:
            pool.segments.append(segment)
        memory = Memory(max(nbytes, 1))
        ctypes.memset(memory.address, _POISON, memory.nbytes)
        view = memory.view[:nbytes]
        weakref.finalize(view, self._let_go, index, segment).atexit = False
        tensor = torch.frombuffer(view, dtype=torch.uint8).as_subclass(OnDevice)
        OnDevice.fake = self
        return tensor

    def _let_go(self, index: int, segment: _Segment) -> None:
        segment.alive = False
        if not segment.kept:
            self._segments[index].remove(segment)

    def drop(self, index: int, segments: list[_Segment]) -> None:
        """A pool has gone."""
        for segment in segments:
            segment.kept = False
            if not segment.alive:
                self._segments[index].remove(segment)

    @contextlib.contextmanager
    def use_mem_pool(self, pool: Pool, device: Any = None) -> Iterator[None]:
        assert _index(device) == self.index, "a pool belongs to the device that was current"
        self._thread.pool = pool
        try:
            yield
        finally:
            self._thread.pool = None

    def empty_cache(self) -> None:
        for segments in self._segments.values():
            segments[:] = [each for each in segments if each.alive]

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        index = self.index if device is None else _index(device)
        self.use(index)
        taken = sum(each.nbytes for each in self._segments[index])
        used = CONTEXT_BYTES + self.others_bytes + taken
        return self.total_bytes - used, self.total_bytes

    def memory_stats(self, device: Any) -> dict[str, Any]:
        segments = self._segments[_index(device)]
        taken = sum(each.nbytes for each in segments)
        used = sum(each.allocated for each in segments if each.alive)
        return {
            "reserved_bytes": {"all": {"current": taken}},
            "allocated_bytes": {"all": {"current": used}},
        }


class Event:
    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake
        self._at: tuple[Stream, int] | None = None

    def record(self, stream: Stream) -> None:
        self._fake.use(stream.index)
        self._at = (stream, self._fake.enqueued(stream))

    def synchronize(self) -> None:
        assert self._at is not None, "an event that was never recorded is over at once"
        self._fake.use(self._at[0].index)
        self._fake.run_until(*self._at)

    def wait(self, stream: Stream) -> None:
        """The default stream's work happens at once here, so it must have come by now."""
        assert stream in self._fake._default
        self.synchronize()


class _Torch:
    """torch itself, but for what CUDA code asks of it. Devices are the CPU, by number."""

    def __init__(self, fake: FakeCuda, gpus: int) -> None:
        self._fake = fake
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: gpus,
            set_device=lambda device: fake._set_device(_index(device)),
            device=fake.device,
            Stream=fake.new_stream,
            Event=lambda blocking: Event(fake),
            stream=fake.stream,
            current_stream=fake.current_stream,
            synchronize=fake.synchronize,
            MemPool=lambda: Pool(fake),
            use_mem_pool=fake.use_mem_pool,
            empty_cache=fake.empty_cache,
            mem_get_info=fake.mem_get_info,
            memory_stats_as_nested_dict=fake.memory_stats,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, kind: str, index: int) -> torch.device:
        return torch.device("cpu", index)

    def empty(self, nbytes: int, *, dtype: torch.dtype, device: Any) -> torch.Tensor:
        return self._fake.empty(nbytes, dtype, device)


def _index(device: Any) -> int:
    return device.index or 0


def _segment_bytes(nbytes: int) -> int:
    """What torch's allocator takes from the driver."""
    if nbytes <= MIB:
        return 2 * MIB
    return 20 * MIB if nbytes < 10 * MIB else round_up(nbytes, 2 * MIB)
