"""The CPU's stand-in for device memory: a capacity, and memory that is touched once."""

from __future__ import annotations

import pytest

from quickthaw.snapshot import CpuDevice
from quickthaw.snapshot.memory import PAGE_BYTES
from quickthaw.wire.errors import ResourceExhausted


def test_freed_memory_serves_the_next_buffer_of_its_size() -> None:
    device = CpuDevice(8 * PAGE_BYTES)
    first = device.allocate(PAGE_BYTES)
    place = first.data.data_ptr()
    first.free()
    assert device.allocate(2 * PAGE_BYTES).data.data_ptr() != place
    assert device.allocate(PAGE_BYTES).data.data_ptr() == place


def test_memory_that_a_tensor_still_sees_is_not_given_to_another() -> None:
    device = CpuDevice(8 * PAGE_BYTES)
    buffer = device.allocate(PAGE_BYTES)
    outliving = buffer.data[:4]
    outliving.fill_(7)
    buffer.free()
    device.allocate(PAGE_BYTES).data.fill_(0)
    assert outliving.tolist() == [7, 7, 7, 7]


def test_spare_memory_makes_way_for_buffers_of_another_size() -> None:
    device = CpuDevice(4 * PAGE_BYTES)
    for _ in range(3):
        for pages in (1, 2, 3, 4):
            buffer = device.allocate(pages * PAGE_BYTES)
            buffer.data.fill_(1)
            buffer.free()
            assert device.free_bytes == 4 * PAGE_BYTES
            assert device.spare_bytes <= 4 * PAGE_BYTES


def test_over_the_capacity_the_error_names_what_is_free() -> None:
    device = CpuDevice(4 * PAGE_BYTES)
    device.allocate(PAGE_BYTES)
    with pytest.raises(ResourceExhausted, match="evict") as caught:
        device.allocate(4 * PAGE_BYTES)
    assert caught.value.metadata["free_bytes"] == str(3 * PAGE_BYTES)


def test_a_copy_never_leaves_its_buffer() -> None:
    device = CpuDevice(4 * PAGE_BYTES)
    buffer = device.allocate(256)
    with pytest.raises(ValueError, match="do not fit"):
        device.copy(buffer, 128, memoryview(bytearray(256)))
    buffer.free()
    buffer.free()
    with pytest.raises(RuntimeError, match="freed"):
        device.copy(buffer, 0, memoryview(bytearray(8)))
