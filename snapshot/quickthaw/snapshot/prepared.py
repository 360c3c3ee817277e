"""Everything that loads need beside bytes, made ahead of them and kept: for one store.

A worker makes it at its start, or inherits it from the process that it is forked from, so nothing
here belongs to a device, and nothing runs in the background.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quickthaw.snapshot.classes import Role, resolve
from quickthaw.snapshot.copiers import Origin
from quickthaw.snapshot.format import Header
from quickthaw.snapshot.headers import read_component_header
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.processors import ProcessorCache
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.skeleton import no_garbage_collection
from quickthaw.snapshot.skeleton_pool import SkeletonPool
from quickthaw.snapshot.store import SnapshotStore

HEADERS_MAX = 1024
"""Layouts kept; one with 2,600 tensors takes a megabyte."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything about a snapshot but its bytes, and the seconds it took just now."""

    snapshot: Snapshot
    headers: Mapping[str, Header]
    pipeline_class: Any
    processors: Mapping[str, Any]
    manifest_seconds: float
    skeleton_seconds: float
    tokenizer_seconds: float


class Prepared:
    """Manifests, layouts, skeletons and tokenizers of a store's snapshots. Thread-safe."""

    def __init__(
        self, store: SnapshotStore, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.store = store
        self.skeletons = SkeletonPool()
        self._processors = ProcessorCache()
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._headers: dict[str, Header] = {}

    def open(self, digest: str) -> Snapshot:
        """The snapshot with that digest, its manifest parsed and checked once."""
        with self._lock:
            if (known := self._snapshots.get(digest)) is None:
                known = self._snapshots[digest] = self.store.open(digest)
            return known

    def adopt(self, snapshot: Snapshot) -> None:
        """Makes a snapshot known that is not in the store yet; its weights come from an origin."""
        with self._lock:
            self._snapshots.setdefault(snapshot.digest, snapshot)

    def ready(
        self,
        digest: str,
        device: torch.device | None,
        *,
        bound: Callable[[Component], bool] = lambda _: False,
        origins: Sequence[Origin] = (),
        skeletons: int = 1,
    ) -> Ready:
        """Makes what is not there yet, for tensors on `device` if that is known.

        `bound` says of which components there is a module with weights, which needs no other.
        `skeletons` is how many of a shape to have: one for each of its models side by side.
        Raises as `Loader.load` does.
        """
        began = self._clock()
        snapshot = self.open(digest)
        manifest = snapshot.manifest
        headers = {part.digest: self.header(part, origins) for part in manifest.components}
        manifest_done = self._clock()
        pipeline_class = resolve(manifest.pipeline_class, Role.PIPELINE)
        with no_garbage_collection():
            for part in manifest.modules:
                if not bound(part):
                    self.skeletons.prepare(part, headers[part.digest], device, skeletons)
        skeletons_done = self._clock()
        processors = {
            part.name: self._processors.get(part, self.store) for part in manifest.processors
        }
        return Ready(
            snapshot,
            headers,
            pipeline_class,
            processors,
            manifest_seconds=manifest_done - began,
            skeleton_seconds=skeletons_done - manifest_done,
            tokenizer_seconds=self._clock() - skeletons_done,
        )

    def header(self, part: Component, origins: Sequence[Origin] = ()) -> Header:
        """A component's layout. One with the same digest as another's is not read again."""
        with self._lock:
            known = self._headers.get(part.header_digest)
        if known is not None and (known.data_start, known.data_bytes) == (
            part.data_start,
            part.data_bytes,
        ):
            return known
        path = self.store.component_path(part.digest)
        header = read_component_header(path, part, origins)
        with self._lock:
            if len(self._headers) >= HEADERS_MAX:
                del self._headers[next(iter(self._headers))]
            self._headers[part.header_digest] = header
        return header
