"""Realtime sessions and artifacts."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors, limits
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import FAST, Caller, Running, a_scheduler, submission


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    limits_ = dataclasses.replace(FAST, realtime_in_flight_max=2)
    async with a_scheduler(tmp_path / "data", limits=limits_) as running:
        yield running


def ask(tag: str, input_json: str = '{"prompt": "x"}') -> inference_pb2.RealtimeRequest:
    return inference_pb2.RealtimeRequest(tag=tag, submit=submission(input_json=input_json))


async def until_finished(
    call: grpc.aio.StreamStreamCall[inference_pb2.RealtimeRequest, inference_pb2.RealtimeResponse],
) -> inference_pb2.RealtimeResponse:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            response = await call.read()
            assert isinstance(response, inference_pb2.RealtimeResponse)
            if response.HasField("refused") or response.event.HasField("finished"):
                return response


async def test_each_input_of_a_session_is_a_billed_request_that_prefers_its_worker(
    running: Running,
) -> None:
    async with (
        FakeWorker(running.address, running.worker_key, "worker-1", automatic=True),
        FakeWorker(running.address, running.worker_key, "worker-2", automatic=True),
    ):
        call = running.admin.inference.Realtime()
        workers = []
        for number in range(6):
            await call.write(ask(f"frame-{number}"))
            response = await until_finished(call)
            assert response.tag == f"frame-{number}"
            assert response.event.finished.state == types_pb2.REQUEST_STATE_SUCCEEDED
            workers.append(response.event.finished.receipt.worker_id)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert len(set(workers)) == 1


async def test_a_session_takes_only_so_many_inputs_at_once(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Realtime()
        for number in range(3):
            await call.write(ask(f"frame-{number}"))
        response = await until_finished(call)
        assert (response.tag, response.refused.reason) == ("frame-2", "RESOURCE_EXHAUSTED")
        assert response.refused.retryable
        worker.finish(await worker.next_assign())
        await until_finished(call)
        await call.write(ask("frame-3"))
        worker.finish(await worker.next_assign())
        worker.finish(await worker.next_assign())
        assert {(await until_finished(call)).tag for _ in range(2)} == {"frame-1", "frame-3"}
        await call.done_writing()


async def test_a_bad_input_is_refused_and_the_session_goes_on(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        call = running.admin.inference.Realtime()
        await call.write(ask("bad", input_json='{"prompt": 5}'))
        refused = (await until_finished(call)).refused
        assert refused.reason == "INVALID_INPUT"
        assert refused.violations[0].field == "input.prompt"
        await call.write(inference_pb2.RealtimeRequest(tag="empty"))
        assert (await until_finished(call)).refused.reason == "INVALID_ARGUMENT"
        await call.write(ask("good"))
        assert (await until_finished(call)).event.HasField("finished")
        await call.done_writing()


async def test_closing_a_session_cancels_what_it_asked_for(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Realtime()
        await call.write(ask("one"))
        assign = await worker.next_assign()
        call.cancel()
        assert (await worker.next_cancel()).attempt_id == assign.attempt_id
        worker.finish(assign, "cancelled")
        finished = await running.admin.until_ended(assign.request_id)
        assert finished.state == types_pb2.REQUEST_STATE_CANCELLED


async def test_a_session_goes_before_those_that_wait_while_it_holds_its_worker(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Realtime()
        await call.write(ask("one"))
        worker.finish(await worker.next_assign())
        await until_finished(call)
        others = [await running.admin.submit() for _ in range(6)]
        assigned = [await worker.next_assign()]
        await call.write(ask("two"))
        started = await call.read()
        assert isinstance(started, inference_pb2.RealtimeResponse)
        order = []
        while assigned:
            assign = assigned.pop(0)
            order.append(assign.request_id)
            worker.finish(assign)
            if len(order) < len(others) + 1:
                assigned.append(await worker.next_assign())
        # One runs, and the worker, for it is the only one, may hold four more already.
        assert started.event.request_id in order[1:6], order
        assert set(order) == {*others, started.event.request_id}
        await call.done_writing()


async def test_an_input_is_durable_with_its_end(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Realtime()
        await call.write(ask("one"))
        assign = await worker.next_assign()
        # It runs already, and whoever asks for it finds it.
        request = inference_pb2.GetRequest(request_id=assign.request_id)
        assert (await running.admin.inference.Get(request)).request_id == assign.request_id
        worker.finish(assign)
        ended = (await until_finished(call)).event.finished
        assert (await running.admin.inference.Get(request)).receipt == ended.receipt
        await call.done_writing()


async def test_an_end_comes_alone_where_nobody_reads_the_rest(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        call = running.admin.inference.Realtime()
        message = ask("one")
        message.end_only = True
        await call.write(message)
        first = await call.read()
        assert isinstance(first, inference_pb2.RealtimeResponse)
        assert first.event.HasField("finished")
        await call.done_writing()


async def test_an_input_is_cancelled_by_its_tag(running: Running) -> None:
    call = running.admin.inference.Realtime()
    await call.write(ask("one"))
    await call.read()
    await call.write(inference_pb2.RealtimeRequest(tag="one", cancel=True))
    response = await until_finished(call)
    assert response.event.finished.state == types_pb2.REQUEST_STATE_CANCELLED
    await call.done_writing()


# ---- artifacts -------------------------------------------------------------------------------


async def test_an_input_that_is_cancelled_before_it_is_known_is_cancelled_then(
    running: Running,
) -> None:
    call = running.admin.inference.Realtime()
    asked = submission(idempotency_key="once")
    await call.write(inference_pb2.RealtimeRequest(tag="frame", submit=asked))
    await call.write(inference_pb2.RealtimeRequest(tag="frame", cancel=True))
    response = await until_finished(call)
    assert response.event.finished.state == types_pb2.REQUEST_STATE_CANCELLED
    await call.done_writing()


async def test_closing_a_session_leaves_alone_what_another_call_asked_for(
    running: Running,
) -> None:
    request_id = await running.admin.submit(idempotency_key="once")
    call = running.admin.inference.Realtime()
    asked = submission(idempotency_key="once")
    await call.write(inference_pb2.RealtimeRequest(tag="frame", submit=asked))
    response = await call.read()
    assert isinstance(response, inference_pb2.RealtimeResponse)
    assert response.event.request_id == request_id
    call.cancel()
    # On the same connection, so that the server reads of the end of the session first.
    await running.admin.inference.Get(inference_pb2.GetRequest(request_id=request_id))
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        ended = await running.admin.until_ended(request_id)
    assert ended.state == types_pb2.REQUEST_STATE_SUCCEEDED


@pytest.mark.parametrize("sent", [[b"drawn"], [b"drawn, but longer"], []])
async def test_a_session_gets_its_files_from_the_worker_or_else_from_the_store(
    running: Running, sent: list[bytes]
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Realtime()
        asked = ask("frame")
        asked.end_only, asked.contents_bytes_max = True, 1000
        await call.write(asked)
        assign = await worker.next_assign()
        assert assign.contents_bytes_max == 1000
        uri = f"artifacts/{assign.request_id}/0.png"
        digest = hashlib.sha256(b"drawn").hexdigest()
        artifact = types_pb2.Artifact(uri=uri, name="0.png", size_bytes=5, sha256=digest)
        if sent != [b"drawn"]:
            stored = Path(running.settings.blob_store) / uri
            stored.parent.mkdir(parents=True)
            stored.write_bytes(b"drawn")
        worker.finish(assign, artifacts=[artifact], contents=sent)
        assert (await until_finished(call)).contents == [b"drawn"]


async def test_what_may_be_asked_for_again_is_stored_before_its_end(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Realtime()
        asked = ask("frame")
        asked.end_only, asked.contents_bytes_max = True, 1000
        asked.submit.idempotency_key = "once"
        await call.write(asked)
        assign = await worker.next_assign()
        assert assign.contents_bytes_max == 0
        worker.finish(assign)
        await until_finished(call)


async def test_a_file_that_is_stored_after_its_end_is_waited_for(running: Running) -> None:
    artifact = await a_finished_artifact(running, b"drawn")
    path = Path(running.settings.blob_store) / artifact.uri
    path.unlink()
    asyncio.get_running_loop().call_later(0.2, path.write_bytes, b"drawn")
    assert (await read(running, artifact.uri))[0] == b"drawn"


async def a_finished_artifact(
    running: Running, data: bytes, *, stored: bytes | None = None
) -> types_pb2.Artifact:
    """A request whose worker wrote `stored` (or `data`) and recorded the digest of `data`."""
    async with FakeWorker(running.address, running.worker_key) as worker:
        await running.admin.submit()
        assign = await worker.next_assign()
        uri = f"artifacts/{assign.request_id}/image-0.png"
        path = Path(running.settings.blob_store) / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if stored is None else stored)
        artifact = types_pb2.Artifact(
            uri=uri,
            name="image-0.png",
            content_type="image/png",
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            width=64,
            height=64,
        )
        worker.finish(assign, artifacts=[artifact])
        finished = await running.admin.until_ended(assign.request_id)
        assert list(finished.artifacts) == [artifact]
    return artifact


async def read(
    running: Running, uri: str, caller: Caller | None = None
) -> tuple[bytes, types_pb2.Artifact]:
    data, first = b"", None
    call = (caller or running.admin).inference.ReadArtifact(
        inference_pb2.ReadArtifactRequest(uri=uri)
    )
    async for chunk in call:
        assert len(chunk.data) <= limits.ARTIFACT_CHUNK_BYTES
        data += chunk.data
        first = first or chunk.artifact
    assert first is not None
    return data, first


async def refused_read(
    running: Running, uri: str, caller: Caller | None = None
) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(running, uri, caller)
    return error_from_rpc(caught.value)


async def test_an_artifact_is_read_whole_in_bounded_chunks(running: Running) -> None:
    data = bytes(range(256)) * 4_000
    artifact = await a_finished_artifact(running, data)
    assert await read(running, artifact.uri) == (data, artifact)


async def test_an_artifact_of_another_tenant_is_for_admins_only(running: Running) -> None:
    artifact = await a_finished_artifact(running, b"picture")
    for scope in (billing_pb2.SCOPE_CALL, billing_pb2.SCOPE_ADMIN):
        answer = await running.admin.accounts.CreateKey(
            billing_pb2.CreateKeyRequest(tenant="acme", scopes=[scope])
        )
        caller = Caller(running.address, answer.secret)
        if scope == billing_pb2.SCOPE_ADMIN:
            assert (await read(running, artifact.uri, caller))[0] == b"picture"
        else:
            error = await refused_read(running, artifact.uri, caller)
            assert isinstance(error, errors.ArtifactNotFound)
        await caller.channel.close()


async def test_damaged_bytes_are_told_as_data_loss(running: Running) -> None:
    artifact = await a_finished_artifact(running, b"x" * 1_000, stored=b"x" * 999 + b"y")
    error = await refused_read(running, artifact.uri)
    assert isinstance(error, errors.ArtifactCorrupt)


async def test_an_artifact_that_was_deleted_is_not_found(running: Running) -> None:
    artifact = await a_finished_artifact(running, b"x")
    (Path(running.settings.blob_store) / artifact.uri).unlink()
    assert isinstance(await refused_read(running, artifact.uri), errors.ArtifactNotFound)


@pytest.mark.parametrize(
    "uri", ["", "x", "artifacts/req_none/a.png", "../../etc/passwd", "artifacts/../admin.key"]
)
async def test_a_uri_that_no_request_recorded_is_not_found(running: Running, uri: str) -> None:
    assert isinstance(await refused_read(running, uri), errors.ArtifactNotFound)
