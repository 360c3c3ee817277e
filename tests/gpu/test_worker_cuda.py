"""A worker's models on a real device: drawn there, evicted from there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.worker.attempts import Assignment, LoadSummary, RunResult, Tier
from quickthaw.worker.device import build_host, choose_device
from quickthaw.worker.drawing import draw
from quickthaw.worker.families import picture_adapter
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.models import ModelHost
from quickthaw.worker.settings import parse
from support.snapshots import BUILDERS, PROMPT
from support.tiny_models import tiny_sdxl

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    # diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Its SDXL pipeline calls a method of its own that it deprecates.
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


class Silent:
    """A stop signal that is never set, and a listener that counts."""

    def __init__(self) -> None:
        self.previews = 0

    def is_set(self) -> bool:
        return False

    async def wait(self) -> None:
        raise AssertionError("nobody waits here")

    def progress(self, step: int, steps: int) -> None: ...

    def preview(self, *_: object) -> None:
        self.previews += 1

    def log(self, level: str, text: str) -> None: ...


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("packed")
    store = SnapshotStore(folder)
    found = {name: pack(build(0), store) for name, build in BUILDERS.items()}
    half = tiny_sdxl(0)
    half.to(torch.float16)
    half.vae.register_to_config(force_upcast=True)
    found["sdxl-half"] = pack(half, store)
    return folder, found


@pytest.fixture
def host(digests: tuple[Path, dict[str, str]], tmp_path: Path) -> Iterator[ModelHost]:
    flags = ["--scheduler", "127.0.0.1:1", "--data-dir", str(tmp_path), "--device", DEVICE]
    flags += ["--gpu-type", "test", "--vram-bytes", "1GiB", "--pinned-bytes", "64MiB"]
    settings = parse([*flags, "--worker-id", "w1"], {"QUICKTHAW_KEY": "key"})
    host = build_host(settings, choose_device(settings), lambda tier: None)
    yield host
    host.close()


def work(host: ModelHost, folder: Path, name: str, digest: str) -> tuple[LoadSummary, RunResult]:
    """As the engine does it: in a thread that is not the one that made the host."""
    words = {"prompt": PROMPT, "num_inference_steps": 2, "seed": 7, "preview_every": 1}
    assignment = Assignment(
        attempt_id=f"a-{name}",
        request_id=f"r-{name}",
        model=f"test/{name}",
        family=name.partition("-")[0],
        snapshot_digest=digest,
        snapshot_uri=str(folder),
        input_json=json.dumps(words),
        attempt=1,
        evict_digests=(),
        deadline_unix_ms=0,
    )
    done: list[tuple[LoadSummary, RunResult]] = []
    silent = Silent()

    def run() -> None:
        summary = host.load(assignment, silent)
        assert isinstance(summary, LoadSummary)
        loaded, reader = host.model_of(assignment)
        assert loaded.pipeline.device.type == DEVICE
        request = reader.read(assignment.input_json)
        assert isinstance(request, ImageInput)
        family = picture_adapter(assignment.family)
        preview = loaded.manifest.preview
        with host.running(loaded.manifest):
            done.append((summary, draw(loaded.pipeline, family, request, preview, silent, silent)))
        host.release(assignment.attempt_id)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done, "the thread failed; its error is in the output"
    assert silent.previews > 0
    return done[0]


@pytest.mark.parametrize("name", [*BUILDERS, "sdxl-half"])
def test_a_request_is_drawn_on_the_device_and_again_the_same(
    name: str, digests: tuple[Path, dict[str, str]], host: ModelHost
) -> None:
    folder, digest = digests[0], digests[1][name]
    summary, first = work(host, folder, name, digest)
    assert {part.source for part in summary.components} == {Tier.DISK}
    again, second = work(host, folder, name, digest)
    assert {part.source for part in again.components} == {Tier.VRAM}
    assert first.files[0].data == second.files[0].data
    assert first.files[0].data.startswith(b"\x89PNG")


def test_what_is_evicted_leaves_the_device_and_comes_back_from_pinned_memory(
    digests: tuple[Path, dict[str, str]], host: ModelHost
) -> None:
    folder, digest = digests[0], digests[1]["sd"]
    _, first = work(host, folder, "sd", digest)
    resident = tuple(line.digest for line in host.residents() if line.tier is Tier.VRAM)
    host.unload(resident, Tier.VRAM)
    assert not [line for line in host.residents() if line.tier is Tier.VRAM]
    summary, second = work(host, folder, "sd", digest)
    assert {part.source for part in summary.components} == {Tier.PINNED}
    assert first.files[0].data == second.files[0].data
