"""A realtime end travels to the gateway while it is written, and is told when that is done."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
import websockets

from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import StorageFull
from support.fake_inference import ALICE_KEY
from support.fake_worker import FakeWorker
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS
from support.schedulers import a_scheduler, submission


def connected(rig: Rig) -> Any:
    url = rig.listening.public_url.replace("http", "ws", 1)
    headers = {"authorization": f"Key {ALICE_KEY}"}
    return websockets.connect(f"{url}/fal-ai/shapes/dev/realtime", additional_headers=headers)


async def test_an_end_is_told_when_it_is_durable_and_not_before(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        rig.platform.durable = asyncio.get_running_loop().create_future()
        await socket.send(json.dumps({"prompt": "a"}))
        receiving = asyncio.create_task(socket.recv())
        # The tentative end reached the gateway before the answer to a later ping can leave it.
        await rig.platform.submitted()
        for _ in range(3):
            await (await socket.ping())
        assert not receiving.done()
        rig.platform.durable.set_result(None)
        output = msgpack.unpackb(await asyncio.wait_for(receiving, PATIENCE_SECONDS))
        assert output["images"][0]["content"] == b"picture 0"


async def test_an_end_that_could_not_be_written_is_an_error_and_the_connection_goes_on(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        rig.platform.durable = asyncio.get_running_loop().create_future()
        rig.platform.durable.set_result(StorageFull("the store is full"))
        await socket.send(json.dumps({"prompt": "a"}))
        told = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_SECONDS))
        assert told["type"] == "x-fal-error"
        assert "the store is full" in told["reason"]
        rig.platform.durable = None
        await socket.send(json.dumps({"prompt": "b"}))
        assert isinstance(await asyncio.wait_for(socket.recv(), PATIENCE_SECONDS), bytes)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_session_is_sent_the_end_and_then_that_it_holds(
    tmp_path: Path, whole: bool
) -> None:
    """Only with all that is needed to use it: what must be read from the store first is late."""
    async with (
        a_scheduler(tmp_path / "data") as running,
        FakeWorker(running.address, running.worker_key) as worker,
    ):
        call = running.admin.inference.Realtime()
        await call.write(
            inference_pb2.RealtimeRequest(
                tag="frame",
                submit=submission(),
                end_only=True,
                contents_bytes_max=1000,
                tentative=True,
            )
        )
        assign = await worker.next_assign()
        artifact = types_pb2.Artifact(
            uri=f"artifacts/{assign.request_id}/0.png", name="0.png", size_bytes=5
        )
        worker.finish(assign, artifacts=[artifact], contents=[b"drawn"] if whole else [])
        answers = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(1 + whole):
                answer = await call.read()
                assert isinstance(answer, inference_pb2.RealtimeResponse)
                answers.append(answer)
        assert [answer.tag for answer in answers] == ["frame"] * len(answers)
        assert [answer.tentative for answer in answers] == ([True, False] if whole else [False])
        assert [answer.durable for answer in answers] == ([False, True] if whole else [False])
        end = answers[0].event.finished
        ended = await running.admin.until_ended(assign.request_id)
        assert end == ended
        assert end.receipt.worker_id == "worker-1"
        await call.done_writing()
