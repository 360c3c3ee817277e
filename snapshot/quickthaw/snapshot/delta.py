"""Components that are stored as another one and the tensors that differ (FORMAT.md §8).

A delta is only another way to get a component's bytes: what it puts together is checked against the
component's own block hashes by whoever reads it, like bytes from any source.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import NoReturn

from quickthaw.snapshot.copiers.base import OpenComponent, Source, Sparse
from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.format import Header, Problem, check_aligned, invalid, parse_header
from quickthaw.snapshot.hashes import BLOCK_BYTES, sha256_hex
from quickthaw.snapshot.manifest import Component, Delta, DeltaLayer
from quickthaw.snapshot.reader import StoreReader
from quickthaw.snapshot.tiers import Tier
from quickthaw.wire.errors import SnapshotCorrupt

_LAYOUTS_MAX = 64
_MEMORY = frozenset({Tier.VRAM, Tier.PINNED})


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes `start` to `end` of a component's data section are in the layer's from `offset` on."""

    start: int
    end: int
    offset: int


def segments(component: Header, layer: Header, where: str) -> tuple[Segment, ...]:
    """Where a layer's tensors go, neighbours joined; raises if one is not the component's."""
    places = {entry.name: entry for entry in layer.tensors}
    found: list[Segment] = []
    for entry in component.tensors:
        if (place := places.pop(entry.name, None)) is None:
            continue
        if (place.dtype, place.shape) != (entry.dtype, entry.shape):
            invalid(
                Problem.BAD_SHAPE,
                where,
                f"{entry.name!r} is {place.dtype} {list(place.shape)}, in the component "
                f"{entry.dtype} {list(entry.shape)}",
            )
        last = found[-1] if found else None
        # Between neighbours there is nothing but the same padding on both sides.
        if (
            last
            and entry.start - last.start == place.start - last.offset
            and not _between(component, last.end, entry.start)
        ):
            found[-1] = Segment(last.start, entry.end, last.offset)
        else:
            found.append(Segment(entry.start, entry.end, place.start))
    if places:
        invalid(
            Problem.MANIFEST,
            where,
            f"it has {len(places)} tensors that the component lacks, first {min(places)!r}",
        )
    return tuple(found)


def _between(header: Header, start: int, end: int) -> bool:
    """Whether tensors of the component lie between two places; pads are shorter than any gap."""
    return end - start >= 256


class DeltaSource:
    """Delivers `base` with one layer laid over it. Owns both."""

    name = "delta"

    def __init__(
        self, base: Source, descriptor: int, layer: DeltaLayer, places: tuple[Segment, ...]
    ) -> None:
        self.tier = Tier.REMOTE if base.tier is Tier.REMOTE else Tier.DISK
        self.span_bytes = base.span_bytes
        self.readers = base.readers
        self.why = f"it differs from another in {layer.data_bytes} bytes; those: {base.name}"
        self._base = base
        self._descriptor = descriptor
        self._data_start = layer.data_start
        self._segments = places
        self._ends = [each.end for each in places]
        self._lock = threading.Lock()
        self._layer_bytes = 0
        self._base_bytes = 0

    @property
    def read_bytes(self) -> int:
        if isinstance(self._base, Sparse):
            return self._layer_bytes + self._base.read_bytes
        return self._layer_bytes + (0 if self._base.tier in _MEMORY else self._base_bytes)

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        done = self._read_base(start, target, nbytes)
        return self._lay_over(start, target, done)

    def _read_base(self, start: int, target: memoryview, nbytes: int) -> int:
        """All but the blocks that the layer covers; sources are asked for whole blocks."""
        done = 0
        while done < nbytes:
            size = min(BLOCK_BYTES, nbytes - done)
            if self._covered(start + done, start + done + size):
                done += size
                continue
            while done + size < nbytes:
                more = min(BLOCK_BYTES, nbytes - done - size)
                if self._covered(start + done + size, start + done + size + more):
                    break
                size += more
            count = self._base.read_into(start + done, target[done:], size)
            with self._lock:
                self._base_bytes += count
            done += count
            if count < size:
                break
        return done

    def _covered(self, start: int, end: int) -> bool:
        index = bisect.bisect_right(self._ends, start)
        if index == len(self._segments):
            return False
        return self._segments[index].start <= start and end <= self._segments[index].end

    def _lay_over(self, start: int, target: memoryview, nbytes: int) -> int:
        """Returns `nbytes`, or less if the layer's file ends too early."""
        end = start + nbytes
        for each in self._segments[bisect.bisect_right(self._ends, start) :]:
            if each.start >= end:
                break
            first, last = max(each.start, start), min(each.end, end)
            place = self._data_start + each.offset - each.start
            while first < last:
                view = target[first - start : last - start]
                count = os.preadv(self._descriptor, [view], place + first)
                if count == 0:
                    return first - start
                first += count
                with self._lock:
                    self._layer_bytes += count
        return nbytes

    def close(self) -> None:
        os.close(self._descriptor)
        self._base.close()


class DeltaOrigin:
    """Puts components together whose manifest says that they are deltas. Thread-safe.

    `alone`: there is no other origin to ask, so what is missing is an error rather than `None`.
    """

    def __init__(self, store: StoreReader, *, alone: bool = True) -> None:
        self._store = store
        self._alone = alone
        self._lock = threading.Lock()
        self._layouts: OrderedDict[tuple[str, str], tuple[Segment, ...]] = OrderedDict()

    def header(self, component: Component) -> bytes | None:
        """That of the first file of the chain: equal headers are what makes a chain possible."""
        if component.delta is None:
            return None
        for stage in reversed(component.delta.stages):
            path = self._store.component_path(stage)
            if path.is_file():
                with os.fdopen(open_regular(path), "rb") as file:
                    return file.read(component.data_start)
        if self._alone:
            _missing(component, f"its base, component {component.delta.base},")
        return None

    def open(self, component: Component, others: OpenComponent) -> Source | None:
        if component.delta is None:
            return None
        layer = component.delta.layers[-1]
        path = self._store.delta_path(layer.digest)
        if not path.is_file():
            if self._alone:
                _missing(component, f"the delta {path}")
            return None
        below = base_of(component, component.delta)
        if self._alone and not self._store.holds(below):
            _missing(component, f"its base, component {below.digest},")
        descriptor = open_regular(path)
        try:
            places = self._places(component, layer, descriptor)
            return DeltaSource(others(below), descriptor, layer, places)
        except BaseException:
            os.close(descriptor)
            raise

    def _places(
        self, component: Component, layer: DeltaLayer, descriptor: int
    ) -> tuple[Segment, ...]:
        key = (component.header_digest, layer.digest)
        with self._lock:
            if (known := self._layouts.get(key)) is not None:
                self._layouts.move_to_end(key)
                return known
        raw = self.header(component)
        if raw is None or sha256_hex(raw) != component.header_digest:
            _missing(component, "a base of the same layout")
        whole = parse_header(raw, component.data_bytes, f"component {component.name}")
        places = segments(whole, read_layer_header(layer, descriptor, component.name), layer.digest)
        with self._lock:
            self._layouts[key] = places
            while len(self._layouts) > _LAYOUTS_MAX:
                self._layouts.popitem(last=False)
        return places


def base_of(component: Component, delta: Delta) -> Component:
    """What the topmost layer lies over. Its block hashes are not known, and not needed."""
    lower = Delta(delta.base, delta.layers[:-1]) if delta.layers[:-1] else None
    return replace(component, digest=delta.stages[-2], delta=lower, blocks="")


def read_layer_header(layer: DeltaLayer, descriptor: int, name: str) -> Header:
    """The checked layout of a delta file; raises `SnapshotCorrupt` if it was changed."""
    where = f"delta {layer.digest} of component {name}"
    raw = os.pread(descriptor, layer.data_start, 0)
    size = os.fstat(descriptor).st_size
    if size != layer.file_bytes or sha256_hex(raw) != layer.header_digest:
        raise SnapshotCorrupt(
            f"{where}: the file was changed or cut off; fetch or pack it again",
            metadata={"component": name, "digest": layer.digest},
        )
    header = parse_header(raw, layer.data_bytes, where)
    check_aligned(header, where)
    return header


def _missing(component: Component, what: str) -> NoReturn:
    invalid(
        Problem.MISSING,
        f"component {component.name}",
        f"is stored as a delta, and {what} is not in the store; fetch or pack the snapshot again",
    )
