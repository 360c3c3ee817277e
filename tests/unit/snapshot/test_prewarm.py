"""What is done ahead of the first load is inherited by a fork, whole and in working order."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore
from quickthaw.snapshot.prepared import Prepared, Ready
from quickthaw.snapshot.prewarm import prewarm, prewarming, warm_kernels
from quickthaw.wire.errors import SnapshotInvalid
from support.snapshots import BUILDERS, MIB, draw, flip_bit

FORKING = """
import gc, json, os, signal, sys, warnings

warnings.simplefilter("ignore")
import torch
from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore, processors, skeleton_pool
from quickthaw.snapshot.prewarm import prewarm

def threads():
    return len(os.listdir("/proc/self/task"))

store, digest = SnapshotStore(sys.argv[1]), sys.argv[2]
configured = torch.get_num_threads()
prepared = prewarm(store, ["sd", "sdxl", "flux"], snapshots=[digest])
told = {"threads": threads(), "cuda": torch.cuda.is_initialized()}
told["kept"] = torch.get_num_threads() == configured
gc.collect()
gc.freeze()
read, write = os.pipe()
if os.fork() == 0:
    signal.alarm(60)  # a child that hangs must not outlive its test
    # Torch starts its own threads here, which it could not if the parent had had any.
    torch.set_num_threads(2)
    told["sum"] = float(torch.ones(1 << 22).sum())
    before = set(sys.modules)
    def too_late(*_):
        raise AssertionError("this should have been prepared")
    skeleton_pool.build = processors.build_processor = too_late
    slab = Slab(8 << 20, staging_bytes=4 << 20, touch_threads=1)
    loader = Loader(store, CpuDevice(64 << 20), slab, readers=2, prepared=prepared)
    loaded = loader.load(digest)
    pipeline = loaded.pipeline
    pipeline.set_progress_bar_config(disable=True)
    told["picture"] = pipeline(
        "a red circle above a blue square", height=32, width=32, num_inference_steps=2,
        generator=torch.Generator().manual_seed(7), output_type="pt",
    ).images.flatten().tolist()
    told["imported"] = sorted(set(sys.modules) - before)
    os.write(write, json.dumps(told).encode())
    os._exit(0)
os.close(write)
with open(read) as end:
    print(end.read())
"""


def test_a_forked_child_inherits_all_of_it_and_can_use_threads(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(store.root), digests["sdxl"]],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        timeout=250,
        check=True,
        text=True,
    )
    told = json.loads(done.stdout)
    assert told["threads"] == 1, "a parent with threads must not fork"
    assert told["kept"], "how many threads a worker uses is not for its parent to settle"
    assert not told["cuda"]
    assert told["sum"] == 1 << 22
    assert told["imported"] == [], "a first request would wait for these imports"
    expected = draw(BUILDERS["sdxl"](0)).flatten()
    assert torch.allclose(torch.tensor(told["picture"]), expected, atol=1e-5)
    assert "torchvision" not in done.stderr


def test_a_loader_builds_nothing_that_was_prepared(
    store: SnapshotStore, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prewarm(store, ["sd", "flux"], device=torch.device("cpu"))

    def too_late(*_: object) -> None:
        raise AssertionError("this should have been prepared")

    monkeypatch.setattr("quickthaw.snapshot.skeleton_pool.build", too_late)
    monkeypatch.setattr("quickthaw.snapshot.processors.build_processor", too_late)
    slab = Slab(24 * MIB, staging_bytes=8 * MIB, touch_threads=1)
    loader = Loader(store, CpuDevice(64 * MIB), slab, readers=2, prepared=prepared)
    for name in ("sd", "flux"):
        with loader.load(digests[name]) as loaded:
            assert torch.equal(draw(loaded.pipeline), draw(BUILDERS[name](0)))
    with pytest.raises(AssertionError, match="prepared"):
        loader.load(digests["sdxl"])  # of no family that was asked for
    loader.close()
    slab.close()


def test_a_snapshot_that_cannot_be_prepared_is_logged_and_passed_over(
    damaged: SnapshotStore, digests: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = damaged.open(digests["flux"]).manifest
    flip_bit(damaged.component_path(manifest.component("transformer").digest), 20)
    with caplog.at_level(logging.WARNING, logger="quickthaw.snapshot.prewarm"):
        done = list(prewarming(Prepared(damaged), ["sd", "flux"]))
    assert {digests[name] for name in ("sd", "sd-tuned", "flux")} <= set(done)
    (line,) = [each.getMessage() for each in caplog.records if "cannot prepare" in each.message]
    assert "component transformer" in line


def test_whatever_a_library_raises_at_a_snapshot_the_others_are_prepared(
    store: SnapshotStore,
    digests: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ready = Prepared.ready

    def strange(self: Prepared, digest: str, *given: Any, **named: Any) -> Ready:
        if digest == digests["flux"]:
            raise KeyError("what nobody thought of")
        return ready(self, digest, *given, **named)

    monkeypatch.setattr(Prepared, "ready", strange)
    prepared = Prepared(store)
    steps = list(prewarming(prepared, ["sd", "flux"], snapshots=[digests["flux"], digests["sd"]]))
    assert digests["sd"] in steps
    assert "what nobody thought of" in caplog.text


def test_the_snapshots_that_were_named_come_first_and_the_number_is_bounded(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    steps = prewarming(Prepared(store), ["sd"], snapshots=[digests["flux"]], snapshots_max=2)
    done = [step for step in steps if step in digests.values()]
    assert done[0] == digests["flux"]
    assert len(done) == 2
    assert done[1] in (digests["sd"], digests["sd-tuned"])


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotInvalid, match="sora"):
        prewarm(SnapshotStore(tmp_path), ["sora"])


def test_kernels_of_a_type_that_the_device_has_not_are_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="quickthaw.snapshot.prewarm"):
        warm_kernels(torch.device("cpu"), (torch.float32, torch.float8_e4m3fn))
    (line,) = [each.getMessage() for each in caplog.records if "no kernels" in each.message]
    assert "float8_e4m3fn" in line
