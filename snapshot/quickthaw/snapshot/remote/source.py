"""A component's bytes from elsewhere, straight into the memory that they are loaded from.

What checks them: XXH3-128 of each block on arrival, against a manifest whose SHA-256 was asked for,
so damage and mix-ups never reach a model. SHA-256 of the whole follows while the disk tier is
written (`behind.py`). Measured here on one core of an AMD EPYC with SHA extensions: XXH3-128
30 GB/s, BLAKE3 6.8 GB/s, SHA-256 1.8 GB/s. So a stream of 10 Gbit/s (1.25 GB/s) could be followed
by SHA-256 on one core, one of 100 Gbit/s not; and SHA-256 needs the bytes in order, which parallel
ranges do not come in.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.remote.base import RemoteSettings
from quickthaw.snapshot.remote.places import Check, Places, good_blocks, unchecked
from quickthaw.snapshot.tiers import Tier


def component_path(digest: str) -> str:
    return f"components/{digest}.safetensors"


def check_of(component: Component, start: int) -> Check:
    """Of a delta's base the block hashes are not known; what is put together is checked."""
    return good_blocks(component, start) if component.blocks else unchecked


class ReadAhead:
    """The first ranges of the next component, fetched while the last ones of this one arrive.

    Without it every component would end with idle connections, and begin with a round trip. At most
    `settings.parallel` ranges are kept of each of two components.
    """

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.parallel, thread_name_prefix="read-ahead")
        self._lock = threading.Lock()
        self._kept: dict[str, dict[int, Future[memoryview]]] = {}

    def begin(self, component: Component, places: Places, current: str) -> None:
        """Begins with `component` while `current` is being read, and drops all others; what is on
        its way for those ends unheard."""
        step = self._settings.range_bytes
        with self._lock:
            if component.digest in self._kept:
                return
            self._drop({current})
            self._kept[component.digest] = {
                start: self._pool.submit(
                    _read, component, places, start, min(step, component.data_bytes - start)
                )
                for start in range(0, component.data_bytes, step)[: self._settings.parallel]
            }

    def take(self, digest: str, start: int) -> memoryview | None:
        """A range that was read ahead, waited for if need be; None if it was not, or failed."""
        with self._lock:
            future = self._kept.get(digest, {}).pop(start, None)
        if future is None or future.cancel():  # still in the queue: quicker to read it at once
            return None
        try:
            return future.result()
        except Exception:
            return None  # whoever wants it will meet the same, and say so

    def _drop(self, all_but: set[str]) -> None:
        for digest in self._kept.keys() - all_but:
            for future in self._kept.pop(digest).values():
                future.cancel()

    def close(self) -> None:
        with self._lock:
            self._drop(set())
        self._pool.shutdown()


def _read(component: Component, places: Places, start: int, nbytes: int) -> memoryview:
    content = memoryview(bytearray(nbytes))
    offset = component.data_start + start
    places.fill(component_path(component.digest), offset, content, check_of(component, start))
    return content


class RemoteSource:
    """One component, read from `places`. `on_last` is called when the last range is asked for."""

    tier = Tier.REMOTE

    def __init__(
        self,
        component: Component,
        places: Places,
        settings: RemoteSettings,
        ahead: ReadAhead,
        on_last: Callable[[], None],
    ) -> None:
        self._component = component
        self._places = places
        self._ahead = ahead
        self._on_last = on_last
        self.span_bytes = settings.range_bytes
        self.readers = settings.parallel

    @property
    def name(self) -> str:
        """`peer` or `remote`, by what most bytes came from."""
        return self._places.kind

    @property
    def why(self) -> str:
        return f"not on this machine; fetched from {self._places.told}"

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        part = self._component
        if start + nbytes >= part.data_bytes:
            self._on_last()
        if (ready := self._ahead.take(part.digest, start)) is not None and ready.nbytes == nbytes:
            _copy(ready, target)
            return nbytes
        path = component_path(part.digest)
        self._places.fill(path, part.data_start + start, target[:nbytes], check_of(part, start))
        return nbytes

    def close(self) -> None:
        """The connections belong to the remotes, which outlive this load."""


def _copy(source: memoryview, target: memoryview) -> None:
    """Without the GIL, which an assignment of slices would hold."""
    begin, end = (ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (source, target))
    ctypes.memmove(end, begin, source.nbytes)
