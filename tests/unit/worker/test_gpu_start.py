"""What a worker does at its start on a GPU, over a stand-in for one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import prewarm
from quickthaw.worker import gpu_count
from quickthaw.worker.device import DeviceChoice, build_host
from quickthaw.worker.prepared import WorkerProgram
from quickthaw.worker.program import Birth
from quickthaw.worker.settings import parse
from support.fake_cuda import MIB, FakeCuda


def test_a_worker_on_a_gpu_offers_what_it_was_told_and_has_warm_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warmed by a thread that has ended: its handles are whoever's runs next."""
    warmed: list[tuple[threading.Thread, torch.device]] = []

    def warm(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> None:
        assert torch.float16 in dtypes
        warmed.append((threading.current_thread(), device))

    monkeypatch.setattr(prewarm, "warm_kernels", warm)
    flags = ["--scheduler", "127.0.0.1:1", "--data-dir", str(tmp_path), "--worker-id", "w1"]
    settings = parse([*flags, "--families", "noop,sd"], {"QUICKTHAW_KEY": "key"})
    choice = DeviceChoice("cuda", 0, "test", vram_bytes=MIB, pinned_bytes=8 * MIB, gpu=None)
    fake = FakeCuda()
    with fake.installed():
        host = build_host(settings, choice, lambda tier: None)
        ((thread, device),) = warmed
        assert device == host._device.torch_device
        assert not thread.is_alive()
        assert thread is not threading.current_thread()
        assert host._device.free_bytes == MIB
        assert sum(fake.driver.registered.values()) > 8 * MIB
        host.close()
        assert not fake.driver.registered


def test_a_host_counts_gpus_without_cuda_where_nvml_cannot_tell_and_its_children_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container without NVML, and of a GPU that is divided."""
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    nvml = [-1]
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: nvml[0])
    monkeypatch.setattr(gpu_count, "_DEVICES", tmp_path)
    monkeypatch.setattr(os, "environ", {"QUICKTHAW_KEY": "key"})
    monkeypatch.setattr("gc.disable", lambda: None)
    program = WorkerProgram(("sd",))
    counts = [torch.cuda._device_count_nvml() for part in program.imports() if part == "diffusers"]
    assert counts == [2]
    nvml[0] = 8
    assert torch.cuda._device_count_nvml() == 8
    nvml[0] = -1
    monkeypatch.setattr("quickthaw.worker.life.live", lambda *_: None)
    program.run(("--scheduler", "127.0.0.1:1", "--data-dir", str(tmp_path)), Birth(0.0, None))
    assert torch.cuda._device_count_nvml() == -1


def test_gpus_are_numbered_as_nvml_numbers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr("gc.disable", lambda: None)
    next(iter(WorkerProgram(("noop",)).imports()))
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
