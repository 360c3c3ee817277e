"""How the CUDA driver is called, against a driver of our own behind the same C calling convention.

What the real one makes of it is for tests/gpu.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quickthaw.snapshot import CudaDevice
from quickthaw.snapshot.cuda import segment_bytes
from quickthaw.snapshot.driver import CudaDriver
from quickthaw.snapshot.memory import PAGE_BYTES, Memory
from quickthaw.wire.errors import ResourceExhausted, SettingsInvalid
from support.snapshots import MIB

OUT_OF_MEMORY = 2
_REGISTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
_UNREGISTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_NAME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))


class StubDriver:
    """Remembers what is registered; refuses from the call number `refuse_at` on."""

    def __init__(self, refuse_at: int | None = None, names: dict[int, bytes] | None = None) -> None:
        self.calls = 0
        self.flags: set[int] = set()
        self.registered: dict[int, int] = {}

        def register(address: int, nbytes: int, flags: int) -> int:
            self.calls += 1
            if refuse_at is not None and self.calls >= refuse_at:
                return OUT_OF_MEMORY
            self.flags.add(flags)
            self.registered[address] = nbytes
            return 0

        def unregister(address: int) -> int:
            return 0 if self.registered.pop(address, None) else 1

        def name(code: int, out: Any) -> int:
            if names is None or code not in names:
                return 1
            out[0] = names[code]
            return 0

        self.library = SimpleNamespace(
            cuMemHostRegister_v2=_REGISTER(register),
            cuMemHostUnregister=_UNREGISTER(unregister),
            cuGetErrorName=_NAME(name),
        )


def test_memory_is_registered_in_chunks_for_every_context_and_let_go_likewise() -> None:
    stub, memory = StubDriver(), Memory(5 * PAGE_BYTES)
    driver = CudaDriver(stub.library)
    driver.register(memory, 2 * PAGE_BYTES)
    start = memory.address
    assert stub.registered == {
        start: 2 * PAGE_BYTES,
        start + 2 * PAGE_BYTES: 2 * PAGE_BYTES,
        start + 4 * PAGE_BYTES: PAGE_BYTES,
    }
    assert stub.flags == {1}  # portable
    driver.unregister(memory, 2 * PAGE_BYTES)
    assert stub.registered == {}


@pytest.mark.parametrize("refuse_at", [1, 3])
def test_after_a_refusal_nothing_stays_registered(refuse_at: int) -> None:
    names = {OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY"}
    stub, memory = StubDriver(refuse_at, names), Memory(4 * PAGE_BYTES)
    with pytest.raises(ResourceExhausted, match="CUDA_ERROR_OUT_OF_MEMORY, code 2") as caught:
        CudaDriver(stub.library).register(memory, PAGE_BYTES)
    assert caught.value.metadata["resource"] == "pinned"
    assert stub.calls == refuse_at
    assert stub.registered == {}


def test_an_error_that_the_driver_cannot_name_is_told_by_its_number() -> None:
    with pytest.raises(ResourceExhausted, match=r"\(code 2\)"):
        CudaDriver(StubDriver(1).library).register(Memory(PAGE_BYTES), PAGE_BYTES)


def test_letting_go_of_what_is_not_registered_is_no_error() -> None:
    CudaDriver(StubDriver().library).unregister(Memory(PAGE_BYTES), PAGE_BYTES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_the_device_says_what_to_do() -> None:
    with pytest.raises(SettingsInvalid, match="sees 0 CUDA devices"):
        CudaDevice(0)


def test_what_is_asked_of_torch_leaves_nothing_over_in_the_pool() -> None:
    assert segment_bytes(256) == 256
    assert segment_bytes(MIB) == MIB
    assert segment_bytes(MIB + 256) == 10 * MIB
    assert segment_bytes(10 * MIB + 256) == 12 * MIB
    assert segment_bytes(64 * MIB) == 64 * MIB
