"""What tells two snapshots apart, and what it costs to load one where the other is resident."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quickthaw.snapshot.format import TensorEntry
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.stored import StoredTensors, equal_bytes


class Change(StrEnum):
    SAME = "same"
    """The same file; loaded once for both."""
    WEIGHTS = "weights"
    """The same layout, other values."""
    LAYOUT = "layout"
    """Other tensors: another class, config or dtype."""
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class ComponentDiff:
    """One component of the second snapshot beside that of the first; counts are of tensors."""

    name: str
    change: Change
    tensors: int
    changed_tensors: int
    data_bytes: int
    changed_bytes: int
    load_bytes: int
    """What a load of the second reads of it where the first is in memory."""


@dataclass(frozen=True, slots=True)
class SnapshotDiff:
    first: str
    second: str
    components: tuple[ComponentDiff, ...]

    @property
    def data_bytes(self) -> int:
        return sum(each.data_bytes for each in self.components)

    @property
    def changed_bytes(self) -> int:
        """What the second would take beside the first, packed with it as its base."""
        return sum(each.changed_bytes for each in self.components)

    @property
    def load_bytes(self) -> int:
        return sum(each.load_bytes for each in self.components)


def diff(first: Snapshot, second: Snapshot) -> SnapshotDiff:
    """Reads headers, and of the weights only the blocks whose hashes differ."""
    here = {part.digest for part in first.manifest.components}
    before = {part.name: part for part in first.manifest.components}
    lines: list[ComponentDiff] = []
    for part in second.manifest.components:
        counterpart = before.pop(part.name, None)
        if part.digest in here:
            count = _tensor_count(second, part)
            lines.append(ComponentDiff(part.name, Change.SAME, count, 0, part.data_bytes, 0, 0))
        elif counterpart is None:
            lines.append(_whole(second, part, Change.ADDED))
        else:
            lines.append(_compared(first, counterpart, second, part))
    lines += [
        ComponentDiff(part.name, Change.REMOVED, _tensor_count(first, part), 0, 0, 0, 0)
        for part in before.values()
    ]
    return SnapshotDiff(first.digest, second.digest, tuple(lines))


def _compared(
    first: Snapshot, before: Component, second: Snapshot, after: Component
) -> ComponentDiff:
    if before.header_digest != after.header_digest:
        return _whole(second, after, Change.LAYOUT)
    with StoredTensors(first.store, before) as old, StoredTensors(second.store, after) as new:
        tensors = new.header.tensors
        changed = [
            entry
            for entry in tensors
            if _may_differ(entry, before, after)
            and not equal_bytes(old[entry.name], new[entry.name])
        ]
    return ComponentDiff(
        name=after.name,
        change=Change.WEIGHTS,
        tensors=len(tensors),
        changed_tensors=len(changed),
        data_bytes=after.data_bytes,
        changed_bytes=sum(entry.end - entry.start for entry in changed),
        load_bytes=_load_bytes(before, after),
    )


def _may_differ(entry: TensorEntry, before: Component, after: Component) -> bool:
    """False where the hashes of all blocks that it lies in are equal."""
    blocks = range(entry.start // BLOCK_BYTES, -(-entry.end // BLOCK_BYTES))
    return any(before.block_hash(block) != after.block_hash(block) for block in blocks)


def _load_bytes(before: Component, after: Component) -> int:
    """The layers above the resident component, if its chain leads there; else all of it."""
    if after.delta is None or before.digest not in after.delta.stages:
        return after.data_bytes
    above = after.delta.layers[after.delta.stages.index(before.digest) :]
    return sum(layer.data_bytes for layer in above)


def _whole(snapshot: Snapshot, part: Component, change: Change) -> ComponentDiff:
    count = _tensor_count(snapshot, part)
    size = part.data_bytes
    return ComponentDiff(part.name, change, count, count, size, size, size)


def _tensor_count(snapshot: Snapshot, part: Component) -> int:
    with StoredTensors(snapshot.store, part) as stored:
        return len(stored.header.tensors)
