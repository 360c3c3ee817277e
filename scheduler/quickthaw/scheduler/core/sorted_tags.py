"""A sorted set that is cheap to change and to walk while it changes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import NamedTuple

from quickthaw.scheduler.core.model import TenantId

_BLOCK_MAX = 512


class Tag(NamedTuple):
    """Whose turn it is: the least goes first, equal ones by name."""

    finish: float
    tenant: TenantId


class SortedTags:
    """Tags in order, in blocks of at most `_BLOCK_MAX`.

    Adding, removing and finding the next cost a search over the blocks and one inside a block, and
    move at most a block and the list of blocks: for n tags O(log n) comparisons.
    """

    __slots__ = ("_blocks", "_firsts")

    def __init__(self) -> None:
        self._blocks: list[list[Tag]] = []
        self._firsts: list[Tag] = []  # of each block

    def add(self, tag: Tag) -> None:
        if not self._blocks:
            self._blocks.append([tag])
            self._firsts.append(tag)
            return
        index = max(0, bisect_right(self._firsts, tag) - 1)
        block = self._blocks[index]
        insort(block, tag)
        if len(block) > _BLOCK_MAX:
            half = len(block) // 2
            self._blocks.insert(index + 1, block[half:])
            self._firsts.insert(index + 1, block[half])
            del block[half:]
        self._firsts[index] = block[0]

    def remove(self, tag: Tag) -> None:
        """It must be there."""
        index = bisect_right(self._firsts, tag) - 1
        block = self._blocks[index]
        del block[bisect_left(block, tag)]
        if block:
            self._firsts[index] = block[0]
        else:
            del self._blocks[index]
            del self._firsts[index]

    def first(self) -> Tag | None:
        return self._firsts[0] if self._firsts else None

    def after(self, tag: Tag) -> Tag | None:
        """The next one, whether or not `tag` itself is there still."""
        index = bisect_right(self._firsts, tag) - 1
        if index >= 0:
            block = self._blocks[index]
            if (place := bisect_right(block, tag)) < len(block):
                return block[place]
        return self._firsts[index + 1] if index + 1 < len(self._firsts) else None
