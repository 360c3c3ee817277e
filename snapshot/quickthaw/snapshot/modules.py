"""Bound modules: one instance per component, shared by the models that contain it."""

from __future__ import annotations

import threading

from torch import nn

from quickthaw.snapshot.device import DeviceBuffer
from quickthaw.snapshot.format import Header
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.skeleton import Skeleton, skeleton_key
from quickthaw.snapshot.skeleton_pool import SkeletonPool


class Modules:
    """Keyed by weights and shape. Thread-safe; counts users so that only idle ones are rebound."""

    def __init__(self, pool: SkeletonPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._bound: dict[tuple[str, str], Skeleton] = {}
        self._users: dict[tuple[str, str], int] = {}

    def acquire(self, component: Component, header: Header, buffer: DeviceBuffer) -> nn.Module:
        """The component's module with its tensors in `buffer`; one more user."""
        key = (component.digest, skeleton_key(component))
        with self._lock:
            skeleton = self._bound.get(key)
            if skeleton is None or not self._users[key]:
                # An idle one is looked over: a pipeline may have moved or cast its tensors
                # (SDXL casts its VAE up and down), which leaves them outside the buffer.
                skeleton = skeleton or self._pool.take(component, header)
                where = f"component {component.name}"
                try:
                    skeleton.bind(buffer.data, header, component.aliases, where)
                except BaseException:
                    if key not in self._bound:
                        self._pool.put(skeleton)
                    raise
                self._bound[key] = skeleton
                self._users[key] = 0
            self._users[key] += 1
            return skeleton.module

    def has(self, component: Component) -> bool:
        """Whether `acquire` needs no skeleton from the pool."""
        with self._lock:
            return (component.digest, skeleton_key(component)) in self._bound

    def release(self, component: Component) -> None:
        with self._lock:
            self._users[component.digest, skeleton_key(component)] -= 1

    def forget(self, digest: str) -> None:
        """Takes the modules off a buffer about to be freed; they must have no user."""
        with self._lock:
            for key in [key for key in self._bound if key[0] == digest]:
                del self._users[key]
                self._pool.put(self._bound.pop(key))
