"""The CUDA device: registered host memory, one copy stream, one allocation per component."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch

from quickthaw.snapshot.device import DeviceBuffer, Fence, full
from quickthaw.snapshot.driver import CudaDriver
from quickthaw.snapshot.format import TENSOR_ALIGNMENT
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.memory import Memory, round_up
from quickthaw.wire.errors import SettingsInvalid

_MIB = 1 << 20


def segment_bytes(nbytes: int) -> int:
    """What to ask torch for, so that a pool of one block has nothing left over.

    torch takes 20 MiB from the driver for what is over 1 and under 10 MiB, and whole 2 MiB above.
    What a weights' pool has left over is of no use to activations, but would count as free.
    """
    return nbytes if nbytes <= _MIB else round_up(max(nbytes, 10 * _MIB), 2 * _MIB)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Until the end of the block the calling thread's own device is this one.

    A new thread's is the first GPU, where a library that names no device would make a context, in
    memory that is another worker's. Does nothing for a CPU.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class CudaBuffer:
    """Memory of its own pool: freeing it returns it to the driver, and no activation splits it.

    `on_freed` is called once, by `free`.
    """

    def __init__(self, nbytes: int, device: torch.device, on_freed: Callable[[], None]) -> None:
        self.nbytes = nbytes
        self._device = device
        self._on_freed = on_freed
        # A pool belongs to the device that is current in this thread, whichever thread that is.
        # Made in inference mode, memory could not be copied into by threads that are not in it.
        with torch.cuda.device(device), torch.inference_mode(mode=False):
            self._pool: torch.cuda.MemPool | None = torch.cuda.MemPool()
            with torch.cuda.use_mem_pool(self._pool, device=device):
                whole = torch.empty(segment_bytes(nbytes), dtype=torch.uint8, device=device)
        self._data: torch.Tensor | None = whole[:nbytes]

    @property
    def data(self) -> torch.Tensor:
        if self._data is None:
            raise RuntimeError("the buffer was freed")
        return self._data

    @property
    def host_view(self) -> memoryview | None:
        return None

    @property
    def room(self) -> HostRange | None:
        return None

    def free(self) -> None:
        if self._data is not None:
            # Kernels still queued may read the weights; the pool does not know about them.
            torch.cuda.synchronize(self._device)
            self._data = None
            self._pool = None
            self._on_freed()


class CudaDevice:
    """GPU number `index` of this process. Thread-safe: copies of all threads share one stream.

    `offer_bytes`: at most so much is room for weights; the rest of the device is left to the CUDA
    context, to activations and to other processes. All of it by default.
    """

    kind = "cuda"
    pins = True

    def __init__(self, index: int = 0, *, offer_bytes: int | None = None) -> None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index >= count:
            raise SettingsInvalid(
                f"torch {torch.__version__} sees {count} CUDA devices, so there is no number "
                f"{index}; install a build of torch with CUDA, check CUDA_VISIBLE_DEVICES, or use "
                "the cpu device"
            )
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        self._stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]  # torch's own gap
        total = torch.cuda.mem_get_info(self.torch_device)[1]
        self.total_bytes = total if offer_bytes is None else min(offer_bytes, total)
        self._weight_bytes = 0
        self._lock = threading.Lock()
        self._driver = CudaDriver()

    @property
    def free_bytes(self) -> int:
        """What weights leave of the offer, as far as the device has it: free, or cached by torch.

        Context and activations take from the rest of the device first, and only then from this.
        """
        return self._of_offer(*self._free_and_cached())

    def _free_and_cached(self) -> tuple[int, int]:
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        # What the shorter calls do to this takes longer than to allocate.
        told = torch.cuda.memory_stats_as_nested_dict(self.torch_device)
        taken, used = (
            told[name]["all"]["current"] for name in ("reserved_bytes", "allocated_bytes")
        )
        return free, taken - used

    def _of_offer(self, free: int, cached: int) -> int:
        return max(min(self.total_bytes - self._weight_bytes, free + cached), 0)

    def wrap(self, room: HostRange, nbytes: int) -> DeviceBuffer | None:
        return None

    def allocate(self, nbytes: int) -> CudaBuffer:
        nbytes = round_up(nbytes, TENSOR_ALIGNMENT)
        wanted = segment_bytes(nbytes)
        with self._lock:
            free, cached = self._free_and_cached()
            if wanted > (left := self._of_offer(free, cached)):
                raise full(nbytes, left, self.kind)
            self._weight_bytes += wanted
        try:
            if wanted > free:
                torch.cuda.empty_cache()  # what torch keeps for activations no new pool can have
            return CudaBuffer(nbytes, self.torch_device, partial(self._count_freed, wanted))
        except torch.OutOfMemoryError as error:
            self._count_freed(wanted)
            raise full(nbytes, self.free_bytes, self.kind) from error
        except BaseException:
            self._count_freed(wanted)
            raise

    def _count_freed(self, nbytes: int) -> None:
        with self._lock:
            self._weight_bytes -= nbytes

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        # Registered memory counts as pinned for the driver, so this returns at once. Leaving a
        # stream of another device would make a context on the one that the thread had before.
        with torch.cuda.device(self.torch_device), torch.cuda.stream(self._stream):
            target.data[offset : offset + source.nbytes].copy_(
                torch.frombuffer(source, dtype=torch.uint8), non_blocking=True
            )

    def fence(self) -> Fence:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own gap
        event.record(self._stream)
        return _EventFence(event, self.torch_device)

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Raises `ResourceExhausted` if the driver refuses; nothing stays registered then."""
        with torch.cuda.device(self.torch_device):
            torch.cuda.synchronize()  # makes the context current in this thread
            self._driver.register(memory, chunk_bytes)

    def unregister(self, memory: Memory, chunk_bytes: int) -> None:
        with torch.cuda.device(self.torch_device):
            torch.cuda.synchronize()  # copies may still read from it
            self._driver.unregister(memory, chunk_bytes)


class _Event(Protocol):
    def synchronize(self) -> None: ...

    def wait(self, stream: torch.cuda.Stream) -> None: ...


class _EventFence:
    def __init__(self, event: _Event, device: torch.device) -> None:
        self._event = event
        self._device = device

    def wait(self) -> None:
        self._event.synchronize()

    def order(self) -> None:
        self._event.wait(torch.cuda.current_stream(self._device))
