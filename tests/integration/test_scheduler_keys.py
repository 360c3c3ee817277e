"""Rotation, limits, changes and uses of keys, at a real scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.scheduler.keys import hash_secret
from quickthaw.v1 import billing_pb2, catalog_pb2, inference_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker, now_ms
from support.schedulers import Caller, Running, a_model, a_scheduler, submission

CALL, ADMIN, WORKER = billing_pb2.SCOPE_CALL, billing_pb2.SCOPE_ADMIN, billing_pb2.SCOPE_WORKER
HOUR_MS = 3_600_000


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data") as running:
        yield running


async def refusal(call: Awaitable[object]) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def a_key(
    running: Running,
    *scopes: billing_pb2.Scope.ValueType,
    limits: billing_pb2.KeyLimits | None = None,
) -> tuple[Caller, billing_pb2.Key]:
    answer = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(tenant="alice", scopes=scopes or (CALL,), limits=limits)
    )
    return Caller(running.address, answer.secret), answer.key


async def rotated(running: Running, key_id: str, grace_ms: int) -> Caller:
    answer = await running.admin.accounts.RotateKey(
        billing_pb2.RotateKeyRequest(key_id=key_id, grace_ms=grace_ms)
    )
    assert answer.secret.startswith(f"qt_{key_id}_")
    return Caller(running.address, answer.secret)


async def whose(caller: Caller) -> str:
    return (await caller.accounts.WhoAmI(billing_pb2.WhoAmIRequest())).tenant


async def listed(running: Running, key_id: str) -> billing_pb2.Key:
    answer = await running.admin.accounts.ListKeys(billing_pb2.ListKeysRequest())
    return next(key for key in answer.keys if key.key_id == key_id)


async def test_revoked_keys_are_listed_last(running: Running) -> None:
    accounts = running.admin.accounts
    _, ended = await a_key(running)
    await accounts.RevokeKey(billing_pb2.RevokeKeyRequest(key_id=ended.key_id))
    keys = (await accounts.ListKeys(billing_pb2.ListKeysRequest())).keys
    assert [key.key_id for key in keys if key.revoked_unix_ms] == [keys[-1].key_id]
    assert keys[-1].key_id == ended.key_id


async def test_both_secrets_are_good_while_the_grace_lasts_and_over_a_restart(
    tmp_path: Path,
) -> None:
    async with a_scheduler(tmp_path / "data") as first:
        old, key = await a_key(first)
        new = await rotated(first, key.key_id, HOUR_MS)
        assert await whose(old) == await whose(new) == "alice"
        shown = await listed(first, key.key_id)
        assert shown.rotated_unix_ms > 0
        assert shown.old_secret_until_unix_ms == shown.rotated_unix_ms + HOUR_MS
    async with a_scheduler(tmp_path / "data") as second:
        for secret in (old.key, new.key):
            assert await whose(Caller(second.address, secret)) == "alice"


async def test_without_grace_the_old_secret_ends_at_once_and_a_second_rotation_ends_the_first(
    running: Running,
) -> None:
    first, key = await a_key(running)
    second = await rotated(running, key.key_id, HOUR_MS)
    third = await rotated(running, key.key_id, HOUR_MS)
    assert type(await refusal(whose(first))) is errors.Unauthenticated
    assert await whose(second) == "alice"
    fourth = await rotated(running, key.key_id, 0)
    for gone in (first, second, third):
        assert type(await refusal(whose(gone))) is errors.Unauthenticated
    assert await whose(fourth) == "alice"


async def test_a_stream_ends_with_the_secret_that_opened_it(running: Running) -> None:
    caller, key = await a_key(running)
    call = caller.inference.RunMany()
    async with FakeWorker(running.address, running.worker_key) as worker:
        run = inference_pb2.RunManyRequest(calls=[inference_pb2.RunCall(tag=1, run=submission())])
        await call.write(run)
        worker.finish(await worker.next_assign(), metered_ms=10)
        first = await call.read()
        assert isinstance(first, inference_pb2.RunManyResponse)
        assert first.ends[0].HasField("request")
        await rotated(running, key.key_id, 0)
        run.calls[0].tag = 2
        await call.write(run)
        second = await call.read()
    assert isinstance(second, inference_pb2.RunManyResponse)
    assert second.ends[0].refused.reason == errors.Unauthenticated.reason


async def test_a_revoked_key_or_an_impossible_grace_cannot_be_rotated(running: Running) -> None:
    _, key = await a_key(running)
    accounts = running.admin.accounts
    too_long = billing_pb2.RotateKeyRequest(key_id=key.key_id, grace_ms=31 * 24 * HOUR_MS)
    assert type(await refusal(accounts.RotateKey(too_long))) is errors.InvalidArgument
    await accounts.RevokeKey(billing_pb2.RevokeKeyRequest(key_id=key.key_id))
    again = billing_pb2.RotateKeyRequest(key_id=key.key_id)
    assert type(await refusal(accounts.RotateKey(again))) is errors.FailedPrecondition
    unknown = billing_pb2.RotateKeyRequest(key_id="x" * 12)
    assert type(await refusal(accounts.RotateKey(unknown))) is errors.KeyNotFound


async def test_a_key_calls_the_models_that_it_is_for(running: Running) -> None:
    model = a_model("other/tiny-too")
    await running.admin.catalog.Register(catalog_pb2.RegisterRequest(model=model))
    caller, _ = await a_key(running, limits=billing_pb2.KeyLimits(models=["test/*"]))
    await caller.submit("test/tiny")
    await caller.submit("tiny")  # by its alias
    for call in (caller.inference.Submit, caller.inference.Quote, caller.inference.Run):
        error = await refusal(call(submission("other/tiny-too")))
        assert type(error) is errors.PermissionDenied
        assert "test/*" in error.message


async def test_requests_over_the_rate_are_refused_with_the_time_to_wait(running: Running) -> None:
    caller, key = await a_key(running, limits=billing_pb2.KeyLimits(requests_per_minute=2))
    await caller.submit()
    await caller.submit()
    error = await refusal(caller.submit())
    assert type(error) is errors.ResourceExhausted
    assert 20 < (error.retry_delay_seconds or 0) <= 30
    other, _ = await a_key(running)
    await other.submit()
    update = billing_pb2.UpdateKeyRequest(key_id=key.key_id, limits=billing_pb2.KeyLimits())
    await running.admin.accounts.UpdateKey(update)
    await caller.submit()


async def test_a_key_has_at_most_its_number_of_open_requests_until_one_ends(
    running: Running,
) -> None:
    limits = billing_pb2.KeyLimits(concurrent_requests=1)
    caller, _ = await a_key(running, limits=limits)
    request_id = await caller.submit()
    for call in (caller.inference.Submit, caller.inference.Run):
        assert type(await refusal(call(submission()))) is errors.ResourceExhausted
    await caller.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id))
    await caller.until_ended(request_id)
    await caller.submit()


async def test_the_lower_of_two_price_caps_counts(running: Running) -> None:
    caller, _ = await a_key(running, limits=billing_pb2.KeyLimits(request_price_nanodollars=1))
    async with FakeWorker(running.address, running.worker_key):
        generous = submission(price_cap_nanodollars=10**12)
        error = await refusal(caller.inference.Submit(generous))
        other, _ = await a_key(running)
        own = await refusal(other.inference.Submit(submission(price_cap_nanodollars=1)))
    assert type(error) is type(own)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (billing_pb2.KeyLimits(requests_per_minute=-1), "limits.requests_per_minute"),
        (billing_pb2.KeyLimits(concurrent_requests=10**7), "limits.concurrent_requests"),
        (billing_pb2.KeyLimits(request_price_nanodollars=-5), "limits.request_price_nanodollars"),
        (billing_pb2.KeyLimits(models=["*"]), "limits.models[0]"),
        (billing_pb2.KeyLimits(models=["a/b"] * 101), "limits.models"),
    ],
)
async def test_impossible_limits_are_named(
    running: Running, limits: billing_pb2.KeyLimits, named: str
) -> None:
    request = billing_pb2.CreateKeyRequest(tenant="alice", scopes=[CALL], limits=limits)
    error = await refusal(running.admin.accounts.CreateKey(request))
    assert [each.field for each in error.violations] == [named]


async def test_an_update_changes_what_it_names_and_never_ends_the_last_admin_key(
    running: Running,
) -> None:
    _, key = await a_key(running, limits=billing_pb2.KeyLimits(concurrent_requests=3))
    update = billing_pb2.UpdateKeyRequest(
        key_id=key.key_id, label="notebooks", expires_unix_ms=now_ms() + HOUR_MS
    )
    changed = (await running.admin.accounts.UpdateKey(update)).key
    assert changed == await listed(running, key.key_id)
    assert (changed.label, changed.limits.concurrent_requests) == ("notebooks", 3)
    admin_id = running.admin.key.split("_")[1]
    last = billing_pb2.UpdateKeyRequest(key_id=admin_id, expires_unix_ms=now_ms() + HOUR_MS)
    assert type(await refusal(running.admin.accounts.UpdateKey(last))) is errors.FailedPrecondition


async def test_a_key_is_shown_as_used_when_it_was(running: Running) -> None:
    caller, key = await a_key(running)
    assert key.last_used_unix_ms == 0
    before_ms = now_ms()
    await whose(caller)
    assert before_ms <= (await listed(running, key.key_id)).last_used_unix_ms <= now_ms()


async def test_secrets_are_in_the_store_as_hashes_only(tmp_path: Path) -> None:
    async with a_scheduler(tmp_path / "data") as running:
        caller, key = await a_key(running)
        new = await rotated(running, key.key_id, HOUR_MS)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("*.db*"))
    assert hash_secret(new.key).encode() in stored
    for secret in (caller.key, new.key, running.admin.key):
        assert secret.encode() not in stored
