from __future__ import annotations

from typing import cast

import pytest

from quickthaw.snapshot import Device
from quickthaw.snapshot.memory import Memory
from quickthaw.snapshot.slab import REGISTER_BYTES, Slab, SlabFull, pieces
from quickthaw.wire.errors import SettingsInvalid
from support.snapshots import MIB

PAGE = 4096


def a_slab(pages: int = 8, staging_pages: int = 1) -> Slab:
    return Slab(pages * PAGE, staging_bytes=staging_pages * PAGE, touch_threads=1)


def test_ranges_are_whole_pages_and_go_back_merged() -> None:
    slab = a_slab(pages=8)
    one, two, three = (slab.allocate(2 * PAGE - 5) for _ in range(3))
    assert (slab.free_bytes, one.offset % PAGE, one.nbytes) == (PAGE, 0, 2 * PAGE)
    for part in (two, one, three):
        part.release()
    assert slab.free_bytes == slab.total_bytes == 7 * PAGE
    assert slab.allocate(7 * PAGE).offset == PAGE


def test_what_does_not_fit_in_one_piece_is_refused() -> None:
    slab = a_slab(pages=5)
    first, second = slab.allocate(PAGE), slab.allocate(PAGE)
    third = slab.allocate(PAGE)
    first.release()
    third.release()
    assert slab.free_bytes == 3 * PAGE
    with pytest.raises(SlabFull):
        slab.allocate(3 * PAGE)
    second.release()
    slab.allocate(4 * PAGE)


def test_a_range_stays_until_its_last_holder_lets_go() -> None:
    slab = a_slab()
    part = slab.allocate(PAGE)
    part.retain()
    part.release()
    assert slab.free_bytes == slab.total_bytes - PAGE
    part.view[:5] = b"bytes"
    part.release()
    assert slab.free_bytes == slab.total_bytes
    with pytest.raises(RuntimeError):
        part.release()
    with pytest.raises(RuntimeError):
        part.retain()


def test_a_slab_without_room_to_stream_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsInvalid, match="make the slab larger"):
        Slab(PAGE, staging_bytes=2 * PAGE)


def test_the_device_registers_the_memory_once_and_lets_it_go() -> None:
    calls: list[tuple[str, int]] = []

    class Recorder:
        def register(self, memory: Memory, chunk_bytes: int) -> None:
            calls.append(("register", memory.nbytes))

        def unregister(self, memory: Memory, chunk_bytes: int) -> None:
            calls.append(("unregister", memory.nbytes))

    slab = Slab(MIB, device=cast("Device", Recorder()), staging_bytes=PAGE)
    slab.close()
    slab.close()
    assert calls == [("register", MIB), ("unregister", MIB)]


def test_copies_never_cross_a_registration() -> None:
    offset = REGISTER_BYTES - 3 * MIB
    cut = pieces(offset, 8 * MIB, 4 * MIB)
    assert cut == [(0, 3 * MIB), (3 * MIB, 4 * MIB), (7 * MIB, MIB)]
    assert pieces(0, 0, MIB) == []


def test_touched_memory_is_resident() -> None:
    memory = Memory(3 * MIB)
    memory.touch(2)
    assert bytes(memory.view[:4]) == b"\0\0\0\0"
    memory.view[-1] = 7
    assert memory.view[3 * MIB - 1] == 7
