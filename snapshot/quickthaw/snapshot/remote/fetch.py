"""Bringing files into a store: in parallel ranges, resumable, checked on the way and as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from quickthaw.snapshot.hashes import BLOCK_BYTES, sha256_hex
from quickthaw.snapshot.manifest import Component, StoredFile
from quickthaw.snapshot.remote.base import RangesUnsupported, RemoteSettings
from quickthaw.snapshot.remote.http import HttpRemote
from quickthaw.snapshot.remote.partial import PartialFile, arriving
from quickthaw.snapshot.remote.places import Check, Places, good_blocks, unchecked
from quickthaw.wire.errors import SnapshotCorrupt

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to bring. `component` is set where the manifest has its blocks' hashes."""

    stored: StoredFile
    places: Places
    component: Component | None = None


def edges_of(wanted: Wanted, range_bytes: int) -> tuple[int, ...]:
    """Where the ranges of a file begin and end: the header on its own, then whole blocks."""
    first = 0 if wanted.component is None else wanted.component.data_start
    starts = dict.fromkeys([0, *range(first, wanted.stored.nbytes, range_bytes)])
    return (*starts, wanted.stored.nbytes)


class _Arrival:
    """One file on its way."""

    def __init__(self, wanted: Wanted, partial: PartialFile, root: Path) -> None:
        self.wanted = wanted
        self.partial = partial
        self.target = root / wanted.stored.path
        self.whole_only = threading.Lock()
        """Held by the thread that reads the file in one piece."""

    def bring(self, index: int, buffer: memoryview, on_bytes: OnBytes) -> None:
        """Range `index`, into its place in the file."""
        start, end = self.partial.edges[index : index + 2]
        target, stored = buffer[: end - start], self.wanted.stored
        try:
            self.wanted.places.fill(stored.path, start, target, self.check(start))
        except RangesUnsupported:
            with self.whole_only:
                if index in self.partial.missing():
                    self._bring_whole(buffer, on_bytes)
            return
        self.partial.write(index, target)
        on_bytes(target.nbytes)

    def check(self, start: int) -> Check:
        part = self.wanted.component
        if part is None:
            return unchecked
        if start == 0:
            return lambda head: head.nbytes if sha256_hex(head) == part.header_digest else 0
        return good_blocks(part, start - part.data_start)

    def _bring_whole(self, buffer: memoryview, on_bytes: OnBytes) -> None:
        """All that is missing, from a server that sends whole files only."""
        remote, stored = self.wanted.places.remotes[0], self.wanted.stored
        assert isinstance(remote, HttpRemote), "object stores have ranges"
        edges, missing = self.partial.edges, set(self.partial.missing())
        sizes = (edges[i + 1] - edges[i] for i in range(len(edges) - 1))
        pieces: Iterator[memoryview] = (buffer[:size] for size in sizes)
        for index, piece in enumerate(remote.stream(stored.path, pieces)):
            if self.check(edges[index])(piece) != piece.nbytes:
                raise SnapshotCorrupt(
                    f"{remote.name}/{stored.path}: the bytes from {edges[index]} on differ from "
                    "the manifest; push or pack it again",
                    metadata={"remote": remote.name, "path": stored.path},
                )
            if index in missing:
                self.partial.write(index, piece)
                on_bytes(piece.nbytes)

    def damaged(self) -> set[int]:
        """Ranges whose bytes on disk are wrong, so far as that can be told."""
        edges = self.partial.edges
        found: set[int] = set()
        for index in range(len(edges) - 1):
            content = memoryview(self.partial.read(edges[index], edges[index + 1] - edges[index]))
            if self.check(edges[index])(content) != content.nbytes:
                found.add(index)
        return found


class Fetch:
    """Brings files into the store at `root`, whose lock the caller holds.

    Raises the first error; what had arrived by then stays for the next try.
    """

    def __init__(self, root: Path, settings: RemoteSettings, on_bytes: OnBytes) -> None:
        self._root = root
        self._settings = settings
        self._on_bytes = on_bytes
        self._stop = threading.Event()
        self._buffers = threading.local()

    def run(self, files: Sequence[Wanted]) -> None:
        range_bytes = self._settings.range_bytes
        with ExitStack() as stack:
            arrivals: list[_Arrival] = []
            for wanted in files:
                edges = edges_of(wanted, range_bytes)
                partial = arriving(self._root / "tmp", wanted.stored.digest, edges)
                arrivals.append(_Arrival(wanted, stack.enter_context(partial), self._root))
            self._bring_all(arrivals)
            for arrival in arrivals:
                self._finish(arrival)

    def _bring_all(self, arrivals: Sequence[_Arrival]) -> None:
        with (
            ThreadPoolExecutor(1, thread_name_prefix="fetch-hash") as hashing,
            ThreadPoolExecutor(self._settings.parallel, thread_name_prefix="fetch") as pool,
        ):
            futures = [
                pool.submit(self._bring, arrival, index, hashing)
                for arrival in arrivals
                for index in arrival.partial.missing()
            ]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _bring(self, arrival: _Arrival, index: int, hashing: ThreadPoolExecutor) -> None:
        if self._stop.is_set():
            return
        try:
            arrival.bring(index, self._buffer(arrival.partial.edges), self._on_bytes)
        except BaseException:
            self._stop.set()
            raise
        hashing.submit(arrival.partial.hash_on)

    def _buffer(self, edges: tuple[int, ...]) -> memoryview:
        """This thread's own, kept while it is large enough."""
        wanted = max(end - start for start, end in pairwise(edges))
        buffer: memoryview | None = getattr(self._buffers, "view", None)
        if buffer is None or buffer.nbytes < wanted:
            buffer = self._buffers.view = memoryview(bytearray(max(wanted, BLOCK_BYTES)))
        return buffer

    def _finish(self, arrival: _Arrival) -> None:
        partial = arrival.partial
        partial.hash_on()
        if not partial.intact:
            # The journal can be ahead of the disk where the machine itself went down.
            if damaged := arrival.damaged():
                partial.forget(damaged)
                self._bring_all([arrival])
                partial.hash_on()
            if not partial.intact:
                partial.discard()
                stored = arrival.wanted.stored
                raise SnapshotCorrupt(
                    f"{arrival.wanted.places.names}: {stored.path} does not match its SHA-256; "
                    "push or pack it again",
                    metadata={"path": stored.path, "digest": stored.digest},
                )
        partial.publish(arrival.target)
