"""The slab's allocator: ranges never overlap, and nothing is ever lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quickthaw.snapshot.slab import Slab, SlabFull, SlabRange

PAGE = 4096
PAGES = 24


class SlabMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.slab = Slab(PAGES * PAGE, staging_bytes=PAGE, touch_threads=1)
        self.held: list[tuple[SlabRange, int]] = []

    @rule(nbytes=st.integers(0, 9 * PAGE))
    def allocate(self, nbytes: int) -> None:
        try:
            part = self.slab.allocate(nbytes)
        except SlabFull:
            assert self.largest_gap() < max(nbytes, 1)
        else:
            assert part.nbytes >= nbytes
            self.held.append((part, 1))

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0))
    def retain(self, index: int) -> None:
        index %= len(self.held)
        part, holders = self.held[index]
        part.retain()
        self.held[index] = (part, holders + 1)

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0))
    def release(self, index: int) -> None:
        index %= len(self.held)
        part, holders = self.held.pop(index)
        part.release()
        if holders > 1:
            self.held.append((part, holders - 1))

    def taken(self) -> list[tuple[int, int]]:
        parts = [self.slab.staging, *(part for part, _ in self.held)]
        return sorted((part.offset, part.offset + part.nbytes) for part in parts)

    def largest_gap(self) -> int:
        ends = [0, *(end for _, end in self.taken())]
        starts = [*(start for start, _ in self.taken()), PAGES * PAGE]
        return max(start - end for end, start in zip(ends, starts, strict=True))

    @invariant()
    def ranges_are_apart_and_inside(self) -> None:
        if not hasattr(self, "slab"):
            return
        position = 0
        for start, end in self.taken():
            assert position <= start < end <= PAGES * PAGE
            assert start % PAGE == end % PAGE == 0
            position = end

    @invariant()
    def every_page_is_taken_or_free(self) -> None:
        if hasattr(self, "slab"):
            taken = sum(end - start for start, end in self.taken())
            assert taken + self.slab.free_bytes == PAGES * PAGE


TestSlab = SlabMachine.TestCase
TestSlab.settings = settings(max_examples=40, stateful_step_count=40)
