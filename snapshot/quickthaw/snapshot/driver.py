"""The two calls of the CUDA driver that pin host memory, and what their refusals mean.

Not through torch: its wrapper of the runtime leaves a refusal pending, and a later, innocent
operation raises it.
"""

from __future__ import annotations

import ctypes
from typing import Any

from quickthaw.snapshot.memory import Memory
from quickthaw.wire.errors import ResourceExhausted, SettingsInvalid

_LIBRARY = "libcuda.so.1"
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: pinned for every context of the process


class CudaDriver:
    """Needs a CUDA context that is current in the calling thread. `library`: the loaded driver."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = ctypes.CDLL(_LIBRARY)
            except OSError as error:
                raise SettingsInvalid(
                    f"{_LIBRARY} cannot be loaded ({error}); install NVIDIA's driver, or use the "
                    "cpu device"
                ) from error
        self._register = library.cuMemHostRegister_v2
        self._register.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
        self._unregister = library.cuMemHostUnregister
        self._unregister.argtypes = (ctypes.c_void_p,)
        self._error_name = library.cuGetErrorName
        self._error_name.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))

    def register(self, memory: Memory, chunk_bytes: int) -> None:
        """Pins `memory` in chunks: one long registration would stall other users of the driver.

        Raises `ResourceExhausted` if the driver refuses; nothing stays registered then.
        """
        for start in range(0, memory.nbytes, chunk_bytes):
            size = min(chunk_bytes, memory.nbytes - start)
            code = self._register(memory.address + start, size, _PORTABLE)
            if code != 0:
                self._unregister_until(memory, chunk_bytes, start)
                raise ResourceExhausted(
                    f"the CUDA driver refused to pin {size} bytes after {start} of "
                    f"{memory.nbytes} ({self._name(code)}); make the slab smaller, or raise the "
                    "container's memory limit",
                    metadata={"resource": "pinned", "code": str(code)},
                )

    def unregister(self, memory: Memory, chunk_bytes: int) -> None:
        """Never raises: it is called on the way out, where the context may be gone already."""
        self._unregister_until(memory, chunk_bytes, memory.nbytes)

    def _unregister_until(self, memory: Memory, chunk_bytes: int, end: int) -> None:
        for start in range(0, end, chunk_bytes):
            self._unregister(memory.address + start)

    def _name(self, code: int) -> str:
        name = ctypes.c_char_p()
        if self._error_name(code, ctypes.byref(name)) != 0 or name.value is None:
            return f"code {code}"
        return f"{name.value.decode()}, code {code}"
