"""What a shared slab holds, written where the next process can read it after this one's death.

A table of records at the end of the memory. A record counts only if its own checksum is right, and
the checksum is written last, so whatever moment a process is killed at, a record is whole or it is
not there. What a record says is still not believed: it must lie inside the slab, apart from the
others, and the bytes it names are checked against their block hashes before use (`residents.py`).

    0    magic, version and the slab's size; anything else means an empty table
    64   records of 64 bytes: digest 32, offset 8, bytes 8 (little-endian), XXH3-128 of these 48
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from quickthaw.snapshot.memory import PAGE_BYTES, round_up

INDEX_BYTES = 256 * 1024
_MAGIC = b"quickthaw slab 1"
_HEAD = struct.Struct("<16sQQ")
_BODY = struct.Struct("<32sQQ")
_RECORD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Listed:
    """A component that the memory holds, or at least says so."""

    slot: int
    digest: str
    offset: int
    nbytes: int


class SlabIndex:
    """Over `view`, the last `INDEX_BYTES` of a slab of `slab_bytes`. Not thread-safe."""

    def __init__(self, view: memoryview, slab_bytes: int, usable_from: int) -> None:
        self._view = view
        self._slots = view.nbytes // _RECORD_BYTES - 1
        head = _HEAD.pack(_MAGIC, slab_bytes, usable_from)
        if view[: _HEAD.size] != head:
            view[:] = bytes(view.nbytes)
            view[: _HEAD.size] = head
        room = (usable_from, slab_bytes - view.nbytes)
        self.found = tuple(_apart(sorted(self._records(), key=lambda each: each.offset), room))
        """What the last process left, by offset."""
        taken = {each.slot for each in self.found}
        self._free = [slot for slot in range(self._slots, 0, -1) if slot not in taken]
        for slot in sorted(self._used() - taken):
            self.clear(slot)

    def write(self, digest: str, offset: int, nbytes: int) -> int | None:
        """Lists a complete, checked component; returns its slot, None if the table is full."""
        if not self._free:
            return None
        slot = self._free.pop()
        body = _BODY.pack(bytes.fromhex(digest), offset, nbytes)
        start = slot * _RECORD_BYTES
        self._view[start : start + _BODY.size] = body
        self._view[start + _BODY.size : start + _RECORD_BYTES] = xxhash.xxh3_128_digest(body)
        return slot

    def erase(self, slot: int) -> None:
        """To be called before the component's bytes are given to others."""
        self.clear(slot)
        self._free.append(slot)

    def clear(self, slot: int) -> None:
        """The checksum goes first: without it the record counts for nothing."""
        start = slot * _RECORD_BYTES
        self._view[start + _BODY.size : start + _RECORD_BYTES] = bytes(16)
        self._view[start : start + _BODY.size] = bytes(_BODY.size)

    def _used(self) -> set[int]:
        """The slots with anything in them: hardly any of thousands."""
        table, empty = bytes(self._view), bytes(_RECORD_BYTES)
        return {
            slot
            for slot in range(1, self._slots + 1)
            if table[slot * _RECORD_BYTES : (slot + 1) * _RECORD_BYTES] != empty
        }

    def _records(self) -> Iterator[Listed]:
        for slot in self._used():
            start = slot * _RECORD_BYTES
            record = bytes(self._view[start : start + _RECORD_BYTES])
            body, checksum = record[: _BODY.size], record[_BODY.size :]
            if any(checksum) and xxhash.xxh3_128_digest(body) == checksum:
                digest, offset, nbytes = _BODY.unpack(body)
                yield Listed(slot, digest.hex(), offset, nbytes)


def _apart(listed: list[Listed], room: tuple[int, int]) -> Iterator[Listed]:
    """Those whose pages lie inside `room` and overlap nothing before them; each digest once."""
    position, digests = room[0], set[str]()
    for each in listed:
        end = each.offset + round_up(max(each.nbytes, 1), PAGE_BYTES)
        if each.offset % PAGE_BYTES or each.offset < position or end > room[1]:
            continue
        if each.digest not in digests:
            digests.add(each.digest)
            position = end
            yield each
