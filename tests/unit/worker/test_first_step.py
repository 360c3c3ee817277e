"""When a run's first step was over, on a device that is told of its work ahead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quickthaw.worker.steps import FirstStep


class Gpu:
    """`behind`: how long it will take for what it has been told of by now."""

    def __init__(self) -> None:
        self.now = 10.0
        self.behind = 0.0

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        event = SimpleNamespace(at=0.0)

        def record(_stream: object) -> None:
            event.at = self.now + self.behind

        def synchronize() -> None:
            self.now = max(self.now, event.at)

        event.record, event.synchronize = record, synchronize
        event.elapsed_time = lambda later: (later.at - event.at) * 1000
        return event


def test_the_first_step_of_a_gpu_is_over_when_the_gpu_is_through_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr("quickthaw.worker.steps.time", SimpleNamespace(monotonic=lambda: gpu.now))
    first = FirstStep(gpu.now)
    assert first.seconds == 0.0
    latents: Any = SimpleNamespace(is_cuda=True, device="cuda:0")
    gpu.now, gpu.behind = 10.01, 0.5
    first.note(latents)
    assert gpu.now == 10.01, "nobody waited"
    gpu.now, gpu.behind = 11.0, 0.25  # more steps were told of meanwhile
    assert first.seconds == pytest.approx(0.51)


def test_the_first_step_of_a_cpu_is_over_when_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.0]
    monkeypatch.setattr("quickthaw.worker.steps.time", SimpleNamespace(monotonic=lambda: now[0]))
    first = FirstStep(1.0)
    now[0] = 3.0
    first.note(torch.zeros(1))
    now[0] = 9.0
    assert first.seconds == 2.0
