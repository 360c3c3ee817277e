"""What happens between two steps of a pipeline: progress, a preview, and the place to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from quickthaw.worker.ports import RunSink, RunStopped, StopSignal

Paint: TypeAlias = Callable[[int, torch.Tensor], None]
"""Sends previews of the latents after a step."""


def raise_if(stop: StopSignal) -> None:
    if stop.is_set():
        raise RunStopped


class FirstStep:
    """When the first step was over. `began`: on the monotonic clock.

    A GPU is told of a step long before it has done it, and waiting for it would keep the next one
    from being told of. So it is asked afterwards, when the whole run is over.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._seconds = 0.0
        self._after: tuple[torch.cuda.Event, torch.cuda.Stream] | None = None

    def note(self, latents: torch.Tensor) -> None:
        self._seconds = time.monotonic() - self._began
        if latents.is_cuda:
            stream = torch.cuda.current_stream(latents.device)
            self._after = _now_on(stream), stream

    @property
    def seconds(self) -> float:
        """0 if there was none. Waits for the device."""
        if self._after is None:
            return self._seconds
        event, stream = self._after
        now = _now_on(stream)
        now.synchronize()
        since: float = event.elapsed_time(now) / 1000
        return time.monotonic() - self._began - since


def _now_on(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own gap
    event.record(stream)
    return event


class Steps:
    """The pipeline's callback after each step. `began`: on the monotonic clock."""

    def __init__(
        self,
        sink: RunSink,
        stop: StopSignal,
        began: float,
        preview_every: int = 0,
        paint: Paint | None = None,
    ) -> None:
        self._first = FirstStep(began)
        self._sink = sink
        self._stop = stop
        self._every = preview_every
        self._paint = paint

    @property
    def first_step_seconds(self) -> float:
        """Since `began`; to be asked for when the run is over."""
        return self._first.seconds

    def __call__(
        self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self.done(index + 1, int(pipe.num_timesteps), tensors["latents"])
        return {}

    def done(self, step: int, steps: int, latents: torch.Tensor) -> None:
        """`step` counts from 1. Raises RunStopped."""
        # Raising is the one way out that every pipeline takes at once, without decoding.
        raise_if(self._stop)
        if step == 1:
            self._first.note(latents)
        self._sink.progress(step, steps)
        # The first preview comes after the first step, however seldom the others do.
        if self._paint is not None and (step == 1 or step % self._every == 0):
            self._paint(step, latents)
