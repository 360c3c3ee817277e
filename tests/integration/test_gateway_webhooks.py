"""fal's webhooks, from the call to a receiver's check of the signature."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quickthaw.gateway.settings import WEBHOOK_SECONDS_MAX, Limits
from quickthaw.v1 import webhooks_pb2, webhooks_pb2_grpc
from support.patience import PATIENCE_SECONDS
from support.receiver import Received, Receiver, a_receiver
from support.schedulers import QUICK_TO_LOSE
from support.whole import Whole, a_whole_platform

QUEUE = "/queue/test/tiny"
DELIVERED = webhooks_pb2.WEBHOOK_STATE_DELIVERED
FAILED = webhooks_pb2.WEBHOOK_STATE_FAILED
DUE = webhooks_pb2.WEBHOOK_STATE_DUE


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as receiver:
        yield receiver


async def submit(
    whole: Whole, url: str, arguments: dict[str, object] | None = None, **headers: str
) -> str:
    answer = await whole.http.post(
        QUEUE,
        params={"fal_webhook": url},
        json={"prompt": "x"} if arguments is None else arguments,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


async def taken(receiver: Receiver) -> Received:
    return await asyncio.to_thread(receiver.take)


async def webhook(whole: Whole, request_id: str) -> webhooks_pb2.Webhook:
    stub = webhooks_pb2_grpc.WebhooksStub(whole.scheduler.admin.channel)
    return await stub.Get(webhooks_pb2.GetWebhookRequest(request_id=request_id))


async def settled(whole: Whole, request_id: str, attempts: int = 1) -> webhooks_pb2.Webhook:
    """Once so many attempts were reported."""
    for _ in range(3_000):
        found = await webhook(whole, request_id)
        if len(found.history) >= attempts:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {attempts} attempts were reported")


async def check(whole: Whole, received: Received) -> None:
    """As the vendor's own example does it: with the key set of either address."""
    keys = (await whole.http.get("/.well-known/jwks.json")).json()["keys"]
    assert keys == (await whole.http.get("/rest/.well-known/jwks.json")).json()["keys"]
    headers = received.headers
    assert abs(time.time() - int(headers["x-fal-webhook-timestamp"])) < 300
    message = "\n".join(
        [
            headers["x-fal-webhook-request-id"],
            headers["x-fal-webhook-user-id"],
            headers["x-fal-webhook-timestamp"],
            hashlib.sha256(received.body).hexdigest(),
        ]
    ).encode()
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    assert len(keys[0]["x"]) % 4 == 0, "receivers decode it without adding padding"
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(keys[0]["x"]))
    public.verify(signature, message)


async def test_a_success_is_told_with_the_result_and_a_signature(
    receiver: Receiver, tmp_path: Path
) -> None:
    async with a_whole_platform(tmp_path) as whole, whole.worker():
        request_id = await submit(whole, f"{receiver.url}/a/b?token=%2Fx&y=1")
        received = await taken(receiver)
        assert received.path == "/a/b?token=%2Fx&y=1"
        assert received.headers["content-type"] == "application/json"
        await check(whole, received)
        result = await whole.http.get(f"{QUEUE}/requests/{request_id}")
        assert received.json == {
            "request_id": request_id,
            "gateway_request_id": request_id,
            "status": "OK",
            "payload": result.json(),
        }
        assert result.headers["x-fal-runner-hints"] == "worker-1"
        found = await settled(whole, request_id)
        assert (found.state, found.history[0].status) == (DELIVERED, 200)
        metrics = (await whole.http.get(str(whole.gateways[0].metrics_url))).text
        assert 'webhooks_total{dialect="fal",outcome="delivered"} 1.0' in metrics


async def test_wrong_arguments_are_accepted_and_told_as_an_error(
    receiver: Receiver, tmp_path: Path
) -> None:
    async with a_whole_platform(tmp_path) as whole:
        request_id = await submit(whole, receiver.url, {"image_size": "huge"})
        received = await taken(receiver)
        await check(whole, received)
        result = await whole.http.get(f"{QUEUE}/requests/{request_id}")
        assert result.status_code == 422
        assert received.json["status"] == "ERROR"
        assert received.json["error"] == "Invalid status code: 422"
        assert received.json["payload"] == result.json()
        (item,) = result.json()["detail"]
        assert item["loc"] == ["body", "image_size"]
        assert item["url"].endswith("/docs/errors#one_of")


async def test_a_cancelled_request_is_told_as_an_error(receiver: Receiver, tmp_path: Path) -> None:
    async with a_whole_platform(tmp_path) as whole:
        request_id = await submit(whole, receiver.url)
        await whole.http.put(f"{QUEUE}/requests/{request_id}/cancel")
        told = (await taken(receiver)).json
        assert told["status"] == "ERROR"
        assert told["payload"]["error_type"] == "client_cancelled"


async def test_a_failed_delivery_is_repeated_with_a_new_signature(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.statuses = [500, 302, 204]
    receiver.headers = {"location": "http://127.0.0.1:1/elsewhere"}
    async with a_whole_platform(tmp_path) as whole, whole.worker():
        request_id = await submit(whole, receiver.url)
        first = await taken(receiver)
        found = await settled(whole, request_id)
        assert (found.state, found.history[0].error) == (DUE, "the receiver answered 500")
        whole.clock.added_ms += 10_000
        again = await taken(receiver)
        assert again.body == first.body
        await check(whole, again)
        found = await settled(whole, request_id, 2)
        assert found.history[1].status == 302, "a redirect is not followed"
        whole.clock.added_ms += 30_000
        await taken(receiver)
        assert (await settled(whole, request_id, 3)).state == DELIVERED


async def test_two_gateways_deliver_each_webhook_once(receiver: Receiver, tmp_path: Path) -> None:
    async with a_whole_platform(tmp_path, gateways=2) as whole, whole.worker():
        ids = {await submit(whole, receiver.url) for _ in range(8)}
        told = [(await taken(receiver)).json["request_id"] for _ in ids]
        assert sorted(told) == sorted(ids)
        for request_id in ids:
            await settled(whole, request_id)
        assert receiver.received.empty()


async def test_a_private_address_is_not_called_and_the_request_does_not_suffer(
    receiver: Receiver, tmp_path: Path
) -> None:
    async with a_whole_platform(tmp_path, allow_private=False) as whole, whole.worker():
        request_id = await submit(whole, receiver.url)
        found = await settled(whole, request_id)
        assert found.state == FAILED
        assert "private" in found.history[0].error
        assert receiver.received.empty()
        result = await whole.http.get(f"{QUEUE}/requests/{request_id}")
        assert result.status_code == 200


async def test_a_rotated_key_signs_at_once_and_the_old_one_is_still_published(
    receiver: Receiver, tmp_path: Path
) -> None:
    async with a_whole_platform(tmp_path) as whole, whole.worker():
        (old,) = (await whole.http.get("/.well-known/jwks.json")).json()["keys"]
        whole.clock.added_ms += 1
        stub = webhooks_pb2_grpc.WebhooksStub(whole.scheduler.admin.channel)
        await stub.RotateSigningKey(webhooks_pb2.RotateSigningKeyRequest())
        await submit(whole, receiver.url)
        await check(whole, await taken(receiver))
        keys = (await whole.http.get("/.well-known/jwks.json")).json()["keys"]
        assert keys[1] == old


async def test_a_start_timeout_ends_a_waiting_request_as_its_caller_asked(
    receiver: Receiver, tmp_path: Path
) -> None:
    async with a_whole_platform(tmp_path) as whole:
        request_id = await submit(whole, receiver.url, x_fal_request_timeout="5.0")
        whole.clock.added_ms += 5_000
        told = (await taken(receiver)).json
        assert told["error"] == "Invalid status code: 504"
        result = await whole.http.get(f"{QUEUE}/requests/{request_id}")
        assert result.status_code == 504
        assert result.json() == {"detail": "Request timed out", "error_type": "request_timeout"}
        assert result.headers["x-fal-request-timeout-type"] == "user"
        assert result.headers["x-fal-error-type"] == "request_timeout"
        status = (await whole.http.get(f"{QUEUE}/requests/{request_id}/status")).json()
        assert (status["status"], status["error_type"]) == ("COMPLETED", "request_timeout")


async def test_a_long_queue_is_refused_to_who_asked_for_a_short_one(tmp_path: Path) -> None:
    async with a_whole_platform(tmp_path) as whole:
        wanted = {"fal_max_queue_length": "1"}
        for _ in range(2):
            answer = await whole.http.post(QUEUE, params=wanted, json={"prompt": "x"})
            assert answer.status_code == 200
        refused = await whole.http.post(QUEUE, params=wanted, json={"prompt": "x"})
        assert refused.status_code == 429
        for text in ("few", "0", f"{1:012}9999999999"):
            wanted = {"fal_max_queue_length": text}
            wrong = await whole.http.post(QUEUE, params=wanted, json={"prompt": "x"})
            assert wrong.status_code == 400


async def test_without_retries_a_lost_worker_ends_the_request(tmp_path: Path) -> None:
    async with a_whole_platform(tmp_path, scheduler_limits=QUICK_TO_LOSE) as whole:
        async with whole.worker(automatic=False) as worker:
            answer = await whole.http.post(
                QUEUE, json={"prompt": "x"}, headers={"x-fal-no-retry": "1"}
            )
            await worker.next_assign()
        url = f"{QUEUE}/requests/{answer.json()['request_id']}"
        await whole.http.get(f"{url}/status/stream")  # until it has ended
        result = await whole.http.get(url)
        assert result.status_code == 500
        assert result.headers["x-fal-needs-retry"] == "true"


async def test_slow_receivers_of_what_is_told_on_the_way_delay_nothing_that_is_promised(
    receiver: Receiver, tmp_path: Path
) -> None:
    all_slots = asyncio.Event()
    silent: list[asyncio.StreamWriter] = []

    def says_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.append(writer)
        if len(silent) >= Limits().webhook_deliveries_max:
            all_slots.set()

    server = await asyncio.start_server(says_nothing, "127.0.0.1", 0)
    patient = Limits(webhook_seconds=WEBHOOK_SECONDS_MAX, drain_seconds=1)
    platform = a_whole_platform(tmp_path, limits=patient)
    async with server, platform as whole, whole.worker():
        port = server.sockets[0].getsockname()[1]
        body = {
            "input": {"prompt": "x"},
            "webhook": f"http://127.0.0.1:{port}/",
            "webhook_events_filter": ["start"],
        }
        for _ in range(Limits().webhook_deliveries_max):
            made = await whole.http.post("/replicate/v1/models/test/tiny/predictions", json=body)
            assert made.status_code == 201, made.text
        await asyncio.wait_for(all_slots.wait(), PATIENCE_SECONDS)
        await submit(whole, receiver.url)
        await asyncio.wait_for(taken(receiver), PATIENCE_SECONDS)
        server.close()  # first, for they are tried again
        for writer in silent:
            writer.close()
