"""An end that the store will not take, for a fault of ours, is told to nobody as one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import inference_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import Running, a_scheduler, submission


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Its store takes no line of the ledger."""
    async with a_scheduler(tmp_path / "data") as running:
        connection = sqlite3.connect(tmp_path / "data" / "quickthaw.db")
        connection.execute(
            "CREATE TRIGGER no_lines BEFORE INSERT ON ledger "
            "BEGIN SELECT RAISE(ABORT, 'no such line'); END"
        )
        connection.close()
        yield running


async def test_a_run_whose_end_was_not_written_did_not_succeed(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.admin.inference.Run(submission(), timeout=PATIENCE_SECONDS)
    assert isinstance(error_from_rpc(caught.value), errors.Internal)


async def test_a_session_is_not_told_that_such_an_end_is_durable(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        call = running.admin.inference.Realtime()
        asked = inference_pb2.RealtimeRequest(
            tag="frame", submit=submission(), end_only=True, tentative=True
        )
        await call.write(asked)
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await call.read()
            while isinstance(answer, inference_pb2.RealtimeResponse) and answer.tentative:
                answer = await call.read()
        assert isinstance(answer, inference_pb2.RealtimeResponse)
        assert answer.HasField("refused")
        assert not answer.durable
        await call.done_writing()
