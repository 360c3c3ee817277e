"""Two workers with a store each, under one real scheduler: the second is fed by the first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import catalog_pb2, types_pb2
from quickthaw.worker.device import choose_device
from quickthaw.worker.process import Worker
from quickthaw.worker.settings import parse
from support.certificates import TestAuthority
from support.platform import until
from support.remote_servers import WebServer
from support.schedulers import Running, a_scheduler
from support.tiny_models import tiny_sd

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
VRAM = types_pb2.TIER_VRAM
INPUT = {
    "prompt": "a red circle",
    "num_inference_steps": 1,
    "image_size": {"width": 32, "height": 32},
    "seed": 7,
    "preview_every": 0,
}


@asynccontextmanager
async def a_worker(
    running: Running, worker_id: str, data_dir: Path, authority: TestAuthority
) -> AsyncIterator[Worker]:
    arguments = ["--scheduler", running.address, "--data-dir", str(data_dir / worker_id)]
    arguments += ["--device", "cpu", "--worker-id", worker_id, "--families", "sd"]
    arguments += ["--blob-store", running.settings.blob_store, "--peers", "127.0.0.1:0"]
    tls = authority.dialling(worker_id)
    arguments += ["--peers-tls", "--tls-ca", str(tls.ca)]
    arguments += ["--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)]
    settings = parse(arguments, {"QUICKTHAW_KEY": running.worker_key})
    ready = asyncio.Event()
    worker = Worker(settings, choose_device(settings), ready.set)
    done = asyncio.create_task(worker.run())
    try:
        await ready.wait()
        yield worker
    finally:
        worker.terminate()
        worker.terminate()
        await asyncio.wait([done])
    done.result()


async def run(running: Running, *, steps: int = 1) -> types_pb2.Request:
    words = json.dumps({**INPUT, "num_inference_steps": steps})
    request = await running.admin.submit(input_json=words)
    ended = await running.admin.until_ended(request)
    assert ended.state == types_pb2.REQUEST_STATE_SUCCEEDED, ended.failure
    return ended


async def test_the_second_worker_is_fed_by_the_first_and_the_receipt_says_so(
    tmp_path: Path,
) -> None:
    """By TLS, which has more parts than plain text that may not fit together."""
    authority = TestAuthority(tmp_path / "pki")
    tls = authority.shown(mutual=True)
    there = SnapshotStore(tmp_path / "there")
    digest = pack(tiny_sd(0), there)
    manifest = there.open(digest).manifest
    with WebServer(there.root) as server:
        model = catalog_pb2.Model(
            id="test/tiny",
            family="sd",
            snapshot_digest=digest,
            snapshot_uri=server.url,
            components=[
                catalog_pb2.Component(name=p.name, digest=p.digest, size_bytes=p.data_bytes)
                for p in manifest.components
            ],
            working_bytes=1_000_000,
            input_schema_json=json.dumps(manifest.input_schema),
        )
        async with (
            a_scheduler(tmp_path / "scheduler", models=[model], tls=tls) as running,
            a_worker(running, "one", tmp_path, authority),
        ):
            first = await run(running)
            assert first.receipt.start_tier == types_pb2.TIER_REMOTE
            assert {part.copier for part in first.receipt.load.components} == {"remote"}
            assert all(part.why for part in first.receipt.load.components)
            here = SnapshotStore(tmp_path / "one" / "snapshots")
            await until(lambda: digest in here, "the disk tier")
            fetched = len(server.asked)
            async with a_worker(running, "two", tmp_path, authority):
                # More than one worker is worth waiting for.
                ended = await asyncio.gather(*(run(running, steps=60) for _ in range(6)))
                elsewhere = [each for each in ended if each.receipt.worker_id == "two"]
                cold = [each for each in elsewhere if each.receipt.start_tier != VRAM]
                assert len(cold) == 1
                assert cold[0].receipt.start_tier == types_pb2.TIER_REMOTE
                assert {part.copier for part in cold[0].receipt.load.components} == {"peer"}
            assert len(server.asked) == fetched, "the origin was left alone"
            assert len({each.artifacts[0].sha256 for each in ended}) == 1
