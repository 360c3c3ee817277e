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
        self.first_step_seconds = 0.0
        self._sink = sink
        self._stop = stop
        self._began = began
        self._every = preview_every
        self._paint = paint

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
            self.first_step_seconds = time.monotonic() - self._began
        self._sink.progress(step, steps)
        # The first preview comes after the first step, however seldom the others do.
        if self._paint is not None and (step == 1 or step % self._every == 0):
            self._paint(step, latents)
