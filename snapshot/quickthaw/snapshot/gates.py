"""Gates: what keeps a module from running before its weights are there.

With an overlapped load the modules exist, bound to their buffers, while bytes still arrive. Every
module that owns tensors waits at its component's gate before its forward, so that a pipeline can
start with whatever has arrived. On a CPU it is the calling thread that waits, on CUDA its stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from quickthaw.snapshot.device import Fence


class Gate:
    """One component's gate, shared by all loads that want it. Thread-safe.

    It opens when the component has arrived. It fails only when every load that hoped for it has
    given up, for another one may still bring the component.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._fence: Fence | None = None
        self._error: BaseException | None = None
        self._hoping = 0

    def hope(self) -> None:
        """One more load that will bring the component, or wait for another to bring it."""
        with self._lock:
            self._hoping += 1
            if self._error is not None:
                self._error = None
                self._settled.clear()

    def open(self, fence: Fence | None) -> None:
        """All copies are enqueued before `fence`; without one, everything is there."""
        with self._lock:
            self._fence = fence
            self._settled.set()

    def give_up(self, error: BaseException) -> None:
        """One load less that hopes; `error` is raised by those that wait if it was the last."""
        with self._lock:
            self._hoping -= 1
            if self._hoping == 0 and not self._settled.is_set():
                self._error = error
                self._settled.set()

    def leave(self) -> None:
        """One load less that hopes, for it has what it hoped for."""
        with self._lock:
            self._hoping -= 1
            self._fence = None
            self._settled.set()

    @property
    def failed(self) -> bool:
        """Whether every load that hoped for the component has given up."""
        return self._error is not None

    def wait(self) -> None:
        """Returns when it is decided whether the weights may be used."""
        self._settled.wait()

    def pass_through(self) -> None:
        """Returns when the weights may be used; raises what kept them from coming."""
        self._settled.wait()
        if self._error is not None:
            raise self._error
        if (fence := self._fence) is not None:
            fence.order()


def guard(module: nn.Module, gate: Gate) -> Callable[[], None]:
    """Makes `module` and its parts wait at `gate`; returns what takes the guard away again."""

    def wait(part: nn.Module, arguments: Any) -> None:
        gate.pass_through()

    handles = [
        part.register_forward_pre_hook(wait)
        for part in module.modules()
        if part is module or part._parameters or part._buffers
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove
