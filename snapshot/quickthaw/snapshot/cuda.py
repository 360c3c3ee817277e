"""The CUDA device: registered host memory, one copy stream, one allocation per component."""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch

from quickthaw.snapshot.device import DeviceBuffer, Fence, full
from quickthaw.snapshot.format import TENSOR_ALIGNMENT
from quickthaw.snapshot.memory import Memory, round_up
from quickthaw.wire.errors import ResourceExhausted, SettingsInvalid

_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: pinned for every context of the process


class CudaBuffer:
    """Memory of its own pool: freeing it returns it to the driver, and no activation splits it."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.nbytes = nbytes
        self._device = device
        self._pool: torch.cuda.MemPool | None = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(self._pool, device=device):
            self._data: torch.Tensor | None = torch.empty(nbytes, dtype=torch.uint8, device=device)

    @property
    def data(self) -> torch.Tensor:
        if self._data is None:
            raise RuntimeError("the buffer was freed")
        return self._data

    def free(self) -> None:
        if self._data is not None:
            # Kernels still queued may read the weights; the pool does not know about them.
            torch.cuda.synchronize(self._device)
            self._data = None
            self._pool = None


class CudaDevice:
    """GPU number `index` of this process. Thread-safe: copies of all threads share one stream.

    `reserve_bytes` are left for activations when room for weights is counted.
    """

    kind = "cuda"

    def __init__(self, index: int = 0, *, reserve_bytes: int = 0) -> None:
        if not torch.cuda.is_available():
            raise SettingsInvalid("no CUDA device is visible to torch; use the cpu device")
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        self._stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]  # torch's own gap
        self._reserve_bytes = reserve_bytes
        self._driver = ctypes.CDLL("libcuda.so.1")

    @property
    def total_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.torch_device)[1] - self._reserve_bytes

    @property
    def free_bytes(self) -> int:
        """Free on the device plus what torch keeps cached, less the reserve."""
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(
            self.torch_device
        )
        return max(free + cached - self._reserve_bytes, 0)

    def allocate(self, nbytes: int) -> CudaBuffer:
        nbytes = round_up(nbytes, TENSOR_ALIGNMENT)
        if nbytes > self.free_bytes:
            raise full(nbytes, self.free_bytes, self.kind)
        if nbytes > torch.cuda.mem_get_info(self.torch_device)[0]:
            torch.cuda.empty_cache()  # what torch keeps for activations is of no use to a new pool
        try:
            return CudaBuffer(nbytes, self.torch_device)
        except torch.OutOfMemoryError as error:
            raise full(nbytes, self.free_bytes, self.kind) from error

    def copy(self, target: DeviceBuffer, offset: int, source: memoryview) -> None:
        # Registered memory counts as pinned for the driver, so this returns at once.
        with torch.cuda.stream(self._stream):
            target.data[offset : offset + source.nbytes].copy_(
                torch.frombuffer(source, dtype=torch.uint8), non_blocking=True
            )

    def fence(self) -> Fence:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own gap
        event.record(self._stream)
        return _EventFence(event)

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Raises `ResourceExhausted` if the driver refuses; nothing stays registered then.

        By the driver's own call: torch's wrapper of the runtime leaves a refusal pending, and a
        later, innocent operation raises it.
        """
        torch.cuda.synchronize(self.torch_device)  # makes the context current in this thread
        for start in range(0, memory.nbytes, chunk_bytes):
            size = min(chunk_bytes, memory.nbytes - start)
            code = self._driver.cuMemHostRegister_v2(
                ctypes.c_void_p(memory.address + start), ctypes.c_size_t(size), _PORTABLE
            )
            if code != 0:
                self._unregister_until(memory, chunk_bytes, start)
                raise ResourceExhausted(
                    f"the CUDA driver refused to pin {size} bytes (code {code}); "
                    "make the slab smaller",
                    metadata={"resource": "pinned"},
                )

    def unregister(self, memory: Memory, chunk_bytes: int) -> None:
        torch.cuda.synchronize(self.torch_device)
        self._unregister_until(memory, chunk_bytes, memory.nbytes)

    def _unregister_until(self, memory: Memory, chunk_bytes: int, end: int) -> None:
        for start in range(0, end, chunk_bytes):
            self._driver.cuMemHostUnregister(ctypes.c_void_p(memory.address + start))


class _Event(Protocol):
    def synchronize(self) -> None: ...


class _EventFence:
    def __init__(self, event: _Event) -> None:
        self._event = event

    def wait(self) -> None:
        self._event.synchronize()
