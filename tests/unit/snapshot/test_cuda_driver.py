"""How the CUDA driver is called, against a driver of our own behind the same C calling convention.

What the real one makes of it is for tests/gpu.
"""

from __future__ import annotations

import pytest
import torch

from quickthaw.snapshot import CudaDevice
from quickthaw.snapshot.cuda import segment_bytes
from quickthaw.snapshot.driver import CudaDriver
from quickthaw.snapshot.memory import PAGE_BYTES, Memory
from quickthaw.wire.errors import ResourceExhausted, SettingsInvalid
from support.fake_cuda_driver import INVALID_CONTEXT, FakeDriver
from support.snapshots import MIB


def test_memory_is_registered_in_chunks_for_every_context_and_let_go_likewise() -> None:
    stub, memory = FakeDriver(), Memory(5 * PAGE_BYTES)
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
    stub, memory = FakeDriver(refuse_at=refuse_at), Memory(4 * PAGE_BYTES)
    with pytest.raises(ResourceExhausted, match="CUDA_ERROR_OUT_OF_MEMORY, code 2") as caught:
        CudaDriver(stub.library).register(memory, PAGE_BYTES)
    assert caught.value.metadata["resource"] == "pinned"
    assert stub.calls == refuse_at
    assert stub.registered == {}


def test_an_error_that_the_driver_cannot_name_is_told_by_its_number() -> None:
    with pytest.raises(ResourceExhausted, match=r"\(code 2\)"):
        CudaDriver(FakeDriver(refuse_at=1, names={}).library).register(
            Memory(PAGE_BYTES), PAGE_BYTES
        )


def test_a_second_registration_is_refused_and_leaves_the_first() -> None:
    stub, memory = FakeDriver(), Memory(2 * PAGE_BYTES)
    driver = CudaDriver(stub.library)
    driver.register(memory, 2 * PAGE_BYTES)
    with pytest.raises(ResourceExhausted, match="HOST_MEMORY_ALREADY_REGISTERED"):
        driver.register(memory, 2 * PAGE_BYTES)
    assert stub.registered == {memory.address: 2 * PAGE_BYTES}


def test_a_thread_without_a_context_cannot_pin_and_is_told_so() -> None:
    stub = FakeDriver(lambda: (False, 0))
    with pytest.raises(ResourceExhausted, match=f"INVALID_CONTEXT, code {INVALID_CONTEXT}"):
        CudaDriver(stub.library).register(Memory(PAGE_BYTES), PAGE_BYTES)


def test_letting_go_of_what_is_not_registered_is_no_error() -> None:
    CudaDriver(FakeDriver().library).unregister(Memory(PAGE_BYTES), PAGE_BYTES)


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
