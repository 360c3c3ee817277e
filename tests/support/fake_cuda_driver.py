"""A CUDA driver of our own behind the same C calling convention, for what pins host memory."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT = 1, 2, 201
ALREADY_REGISTERED, NOT_REGISTERED = 712, 713
_REGISTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
_UNREGISTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_NAME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
_NAMES = {
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    INVALID_CONTEXT: b"CUDA_ERROR_INVALID_CONTEXT",
    ALREADY_REGISTERED: b"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
}


class FakeDriver:
    """Refuses what a driver refuses, and everything from the call number `refuse_at` on.

    `seen`: whether a context is current in the calling thread, and the error that the device is
    broken by (0 if it is not).
    """

    def __init__(
        self,
        seen: Callable[[], tuple[bool, int]] = lambda: (True, 0),
        *,
        refuse_at: int | None = None,
        names: dict[int, bytes] | None = None,
    ) -> None:
        self.calls = 0
        self.flags: set[int] = set()
        self.registered: dict[int, int] = {}
        """Sizes by address."""
        known = _NAMES if names is None else names
        lock = threading.Lock()

        def refused() -> int:
            there, broken = seen()
            return broken if there else INVALID_CONTEXT

        def register(address: int, nbytes: int, flags: int) -> int:
            with lock:
                self.calls += 1
                if code := refused():
                    return code
                if refuse_at is not None and self.calls >= refuse_at:
                    return OUT_OF_MEMORY
                if not address or not nbytes:
                    return INVALID_VALUE
                if any(
                    start < address + nbytes and address < start + size
                    for start, size in self.registered.items()
                ):
                    return ALREADY_REGISTERED
                self.flags.add(flags)
                self.registered[address] = nbytes
                return 0

        def unregister(address: int) -> int:
            with lock:
                if code := refused():
                    return code
                return 0 if self.registered.pop(address, None) else NOT_REGISTERED

        def name(code: int, out: Any) -> int:
            if code not in known:
                return INVALID_VALUE
            out[0] = known[code]
            return 0

        self.library = SimpleNamespace(
            cuMemHostRegister_v2=_REGISTER(register),
            cuMemHostUnregister=_UNREGISTER(unregister),
            cuGetErrorName=_NAME(name),
        )

    def covers(self, address: int, nbytes: int) -> bool | None:
        """Whether one registration holds these bytes; None if they lie partly in one, or in two."""
        touched = [
            (start, size)
            for start, size in self.registered.items()
            if start < address + nbytes and address < start + size
        ]
        if not touched:
            return False
        start, size = touched[0]
        whole = start <= address and address + nbytes <= start + size
        return True if whole else None
