"""Skeletons that are not in use, kept for the next load of any model of their shape."""

from __future__ import annotations

import threading
from collections import defaultdict

import torch

from quickthaw.snapshot.format import Header
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.skeleton import Skeleton, build, skeleton_key

IDLE_MAX = 2
"""Unbound skeletons kept per shape; two pipelines of one shape may be loaded side by side."""
SHAPES_MAX = 256
"""Shapes kept, those used last; broken snapshots bring new ones without end."""


class SkeletonPool:
    """Idle skeletons by key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: defaultdict[str, list[Skeleton]] = defaultdict(list)

    def take(self, component: Component, header: Header) -> Skeleton:
        """An unbound skeleton for `component`, whose file has that header; built if none is idle.

        One that is prepared for the component's layout is preferred.
        """
        key = skeleton_key(component)
        with self._lock:
            if idle := self._idle[key]:
                best = max(idle, key=lambda each: each.fits(component.header_digest))
                idle.remove(best)
                return best
        return Skeleton(key, build(component, len(header.tensors) + len(component.aliases)))

    def put(self, skeleton: Skeleton) -> None:
        """Unbinds a skeleton and keeps it for later, or drops it if enough are idle."""
        skeleton.unbind()
        with self._lock:
            idle = self._idle.pop(skeleton.key, [])  # and back in as the latest
            self._idle[skeleton.key] = [*idle, skeleton][:IDLE_MAX]
            while len(self._idle) > SHAPES_MAX:
                del self._idle[next(iter(self._idle))]

    def clear(self) -> None:
        """Drops the idle ones, for their memory."""
        with self._lock:
            self._idle.clear()

    def prepare(
        self, component: Component, header: Header, device: torch.device | None, count: int = 1
    ) -> None:
        """Makes the next `take` immediate, and binding what was taken; or the next `count` of them.

        Raises `SnapshotInvalid` if the file with that header does not fit the component's module.
        """
        taken: list[Skeleton] = []
        try:
            for _ in range(min(count, IDLE_MAX)):
                taken.append(self.take(component, header))
                taken[-1].prepare(header, component.aliases, device, f"component {component.name}")
        finally:
            for skeleton in taken:
                self.put(skeleton)
