"""Deployments over gRPC: asked for by tenants, leased by packers, ended once, over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, catalog_pb2, deployments_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.bringing import (
    TESTING,
    Packer,
    a_deployer,
    a_spec,
    ask,
    deployments_of,
    look,
)
from support.patience import PATIENCE_SECONDS
from support.schedulers import FAST, Caller, Running, a_model, a_scheduler

READY = deployments_pb2.DEPLOYMENT_STATE_READY
FAILED = deployments_pb2.DEPLOYMENT_STATE_FAILED
WAITING = deployments_pb2.DEPLOYMENT_STATE_WAITING
CANCELLED = deployments_pb2.DEPLOYMENT_STATE_CANCELLED
LIMITS = replace(
    FAST, tenant_deployments_max=2, tenant_snapshots_max=3, tenant_deployments_kept_max=3
)


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def running(tmp_path: Path, clock: Hands) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data", limits=LIMITS, clock=clock) as running:
        yield running


@pytest.fixture
async def me(running: Running) -> AsyncIterator[Caller]:
    caller = await a_deployer(running, "me")
    yield caller
    await caller.channel.close()


@pytest.fixture
def packer(running: Running) -> Packer:
    return Packer(running.admin)


async def refusal(call: Awaitable[object]) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


def a_packed(digest: str = "12" * 32, size_bytes: int = 500) -> catalog_pb2.Model:
    """What a packer hands in, over the base of the tests."""
    model = a_model()
    model.snapshot_digest = digest
    own = catalog_pb2.Component(name="lora", digest=digest, size_bytes=size_bytes)
    model.components.append(own)
    return model


async def brought(
    me: Caller, packer: Packer, name: str = "me/style", digest: str = "12" * 32
) -> deployments_pb2.Deployment:
    await ask(me, a_spec(name))
    leased = await packer.lease()
    after = await packer.report(leased, TESTING, packed=a_packed(digest))
    return after.deployment


async def models(caller: Caller) -> list[str]:
    found = await caller.catalog.ListModels(catalog_pb2.ListModelsRequest())
    return [each.id for each in found.models]


async def test_what_is_handed_in_serves_its_tenant_alone_from_its_first_moment(
    running: Running, me: Caller, packer: Packer
) -> None:
    asked = await ask(me)
    assert (asked.state, asked.tenant) == (WAITING, "me")
    leased = await packer.lease()
    assert leased.base.id == "test/tiny"
    await packer.report(leased, step="packing unet")
    assert (await look(me, asked.deployment_id)).step == "packing unet"
    assert "me/style" not in await models(me)
    await packer.report(leased, TESTING, packed=a_packed())
    ended = await look(me, asked.deployment_id)
    assert (ended.state, ended.version, ended.snapshot_digest) == (READY, 1, "12" * 32)
    assert "me/style" in await models(me)
    rival = await a_deployer(running, "rival")
    assert "me/style" not in await models(rival)
    endpoint = await me.catalog.GetEndpoint(catalog_pb2.GetEndpointRequest(model="me/style"))
    assert (endpoint.visibility, endpoint.owner_tenant) == (catalog_pb2.VISIBILITY_PRIVATE, "me")


async def test_a_later_one_is_the_next_version_and_keeps_endpoint_and_aliases(
    running: Running, me: Caller, packer: Packer
) -> None:
    await brought(me, packer)
    wanted = catalog_pb2.Endpoint(
        visibility=catalog_pb2.VISIBILITY_PRIVATE, owner_tenant="me", concurrency_max=7
    )
    await running.admin.catalog.SetEndpoint(
        catalog_pb2.SetEndpointRequest(model="me/style", endpoint=wanted)
    )
    assert (await brought(me, packer, digest="34" * 32)).version == 2
    assert (await brought(me, packer)).version == 1, "the same content is the version it was"
    endpoint = await me.catalog.GetEndpoint(catalog_pb2.GetEndpointRequest(model="me/style"))
    assert endpoint.concurrency_max == 7


async def test_a_tenant_rolls_back_and_deletes_what_is_its_own_and_nothing_else(
    running: Running, me: Caller, packer: Packer
) -> None:
    await brought(me, packer)
    await brought(me, packer, digest="34" * 32)
    rival = await a_deployer(running, "rival")
    for caller, kind in ((rival, errors.ModelNotFound), (me, None)):
        back = catalog_pb2.RollbackRequest(model="me/style", number=1)
        gone = catalog_pb2.RemoveRequest(id="me/style")
        if kind is None:
            assert (await caller.catalog.Rollback(back)).model.snapshot_digest == "12" * 32
            await caller.catalog.Remove(gone)
        else:
            assert isinstance(await refusal(caller.catalog.Rollback(back)), kind)
            assert isinstance(await refusal(caller.catalog.Remove(gone)), kind)
    shared = catalog_pb2.RemoveRequest(id="test/tiny")
    assert isinstance(await refusal(me.catalog.Remove(shared)), errors.PermissionDenied)
    assert await models(me) == ["test/tiny"]


async def test_a_key_without_the_scope_deploys_nothing_and_packs_nothing(
    running: Running, me: Caller
) -> None:
    caller = await a_deployer(running, "me", billing_pb2.SCOPE_CALL)
    assert isinstance(await refusal(ask(caller)), errors.PermissionDenied)
    assert isinstance(await refusal(Packer(me).lease()), errors.PermissionDenied)


async def test_a_key_for_some_models_deploys_and_deletes_those_only(
    running: Running, me: Caller, packer: Packer
) -> None:
    made = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(
            tenant="me",
            scopes=[billing_pb2.SCOPE_CALL, billing_pb2.SCOPE_DEPLOY],
            limits=billing_pb2.KeyLimits(models=["me/mine", "test/tiny"]),
        )
    )
    limited = Caller(running.address, made.secret)
    await brought(me, packer)
    gone = catalog_pb2.RemoveRequest(id="me/style")
    for call in (ask(limited), limited.catalog.Remove(gone)):
        assert isinstance(await refusal(call), errors.PermissionDenied)
    assert (await ask(limited, a_spec("me/mine"))).state == WAITING


async def test_another_tenant_sees_nothing_of_a_deployment(running: Running, me: Caller) -> None:
    asked = await ask(me)
    rival = await a_deployer(running, "rival")
    stub = deployments_of(rival)
    listed = await stub.List(deployments_pb2.ListDeploymentsRequest())
    assert not listed.deployments
    told = set()
    for wanted in (asked.deployment_id, "dep_" + "0" * 22):
        get = stub.Get(deployments_pb2.GetDeploymentRequest(deployment_id=wanted))
        cancel = stub.Cancel(deployments_pb2.CancelDeploymentRequest(deployment_id=wanted))
        for call in (get, cancel):
            refused = await refusal(call)
            assert isinstance(refused, errors.NotFound)
            told.add(refused.message.replace(wanted, ""))
    assert len(told) == 1
    assert (await look(me, asked.deployment_id)).state == WAITING


async def test_a_lost_packer_is_replaced_and_has_nothing_more_to_say(
    me: Caller, packer: Packer, clock: Hands
) -> None:
    asked = await ask(me)
    first = await packer.lease()
    assert not (await packer.lease()).HasField("deployment"), "one has it"
    clock.ms += 61_000
    second = await packer.lease()
    assert second.deployment.deployment_id == asked.deployment_id
    assert second.deployment.attempts == 2
    assert (await packer.report(first, TESTING, packed=a_packed("56" * 32))).ignored
    assert "me/style" not in await models(me)
    assert not (await packer.report(second, TESTING, packed=a_packed())).ignored
    assert (await look(me, asked.deployment_id)).snapshot_digest == "12" * 32


async def test_files_that_lose_every_packer_are_given_up(
    me: Caller, packer: Packer, clock: Hands
) -> None:
    asked = await ask(me)
    for _ in range(LIMITS.deployment_attempts_max):
        leased = await packer.lease()
        assert leased.HasField("deployment")
        await packer.report(leased, step="packing unet")
        clock.ms += 61_000
    assert not (await packer.lease()).HasField("deployment")
    ended = await look(me, asked.deployment_id)
    assert (ended.state, ended.failure.reason) == (FAILED, "ATTEMPTS_EXHAUSTED")
    assert "packing unet" in ended.failure.message


@pytest.mark.parametrize("retryable", [True, False])
async def test_what_may_pass_is_tried_again_and_what_may_not_is_told_at_once(
    me: Caller, packer: Packer, clock: Hands, retryable: bool
) -> None:
    asked = await ask(me)
    failure = types_pb2.Failure(reason="STORAGE_FULL", message="full", retryable=retryable)
    await packer.report(await packer.lease(), failure=failure)
    known = await look(me, asked.deployment_id)
    assert known.state == (WAITING if retryable else FAILED)
    assert known.failure.message == "full"
    assert not (await packer.lease()).HasField("deployment"), "not at once"
    clock.ms += 10_000
    assert (await packer.lease()).HasField("deployment") == retryable


async def test_a_cancelled_one_is_taken_from_its_packer_with_what_it_staged(
    running: Running, me: Caller, packer: Packer
) -> None:
    asked = await ask(me)
    leased = await packer.lease()
    staged = a_packed()
    staged.id, staged.aliases[:] = f"self-test/{asked.deployment_id}", []
    await running.admin.catalog.Register(catalog_pb2.RegisterRequest(model=staged))
    wanted = deployments_pb2.CancelDeploymentRequest(deployment_id=asked.deployment_id)
    assert (await deployments_of(me).Cancel(wanted)).state == CANCELLED
    assert (await packer.report(leased, TESTING, packed=a_packed())).ignored
    assert await models(running.admin) == ["test/tiny"]
    assert (await deployments_of(me).Cancel(wanted)).state == CANCELLED, "as it was"


async def test_everything_outlives_a_restart(tmp_path: Path, store_url: str) -> None:
    async with a_scheduler(tmp_path / "data", store_url=store_url) as running:
        me = await a_deployer(running, "me")
        asked, other = await ask(me), await ask(me, a_spec("me/other"))
        leased = await Packer(running.admin).lease()
        await Packer(running.admin).report(leased, step="packing unet")
    async with a_scheduler(tmp_path / "data", store_url=store_url, models=[]) as running:
        again = Caller(running.address, me.key)
        packer = Packer(running.admin)
        known = await look(again, asked.deployment_id)
        assert (known.step, known.attempts) == ("packing unet", 1)
        assert not (await packer.report(leased, TESTING, packed=a_packed())).ignored
        assert (await look(again, asked.deployment_id)).state == READY
        assert (await packer.lease()).deployment.deployment_id == other.deployment_id
        assert "me/style" in await models(again)


async def test_a_packer_that_waits_hears_of_a_new_one_at_once(me: Caller, packer: Packer) -> None:

    waiting = asyncio.create_task(packer.lease(wait_ms=30_000))
    asked = await ask(me)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await waiting).deployment.deployment_id == asked.deployment_id


async def test_as_many_as_may_be_open_are_and_then_it_says_when_to_try_again(
    me: Caller,
) -> None:
    await ask(me)
    await ask(me, a_spec("me/other"))
    refused = await refusal(ask(me, a_spec("me/third")))
    assert isinstance(refused, errors.ResourceExhausted)
    assert refused.retry_delay_seconds
    assert "quota" not in refused.metadata


async def test_a_tenant_keeps_as_many_snapshots_as_it_may_and_deleting_makes_room(
    me: Caller, packer: Packer
) -> None:
    for number in range(LIMITS.tenant_snapshots_max):
        await brought(me, packer, f"me/s{number}", f"{number:064x}")
    refused = await refusal(ask(me, a_spec("me/more")))
    assert isinstance(refused, errors.ResourceExhausted)
    assert refused.metadata["quota"] == "snapshots"
    assert "you may keep 3 snapshots and have 3" in refused.message
    await me.catalog.Remove(catalog_pb2.RemoveRequest(id="me/s0"))
    assert (await brought(me, packer, "me/more", "ff" * 32)).state == READY


async def test_bytes_that_others_have_too_are_not_the_tenants(tmp_path: Path) -> None:
    limits = replace(FAST, tenant_snapshot_bytes_max=2_500)
    async with a_scheduler(tmp_path / "data", limits=limits) as running:
        me, packer = await a_deployer(running, "me"), Packer(running.admin)
        # Its base has two million.
        assert (await brought(me, packer)).state == READY
        assert isinstance(
            await refusal(ask(me, a_spec(size_bytes=2_001))), errors.ResourceExhausted
        )
        await ask(me, a_spec("me/large"))
        leased = await packer.lease()
        after = await packer.report(leased, TESTING, packed=a_packed("34" * 32, 2_001))
        assert after.deployment.state == FAILED
        assert after.deployment.failure.reason == "RESOURCE_EXHAUSTED"
        assert "me/large" not in await models(me)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model": "you/style"}, errors.PermissionDenied, "me/..."),
        ({"model": "Style"}, errors.InvalidArgument, "spec.model"),
        ({"base": "no/body"}, errors.ModelNotFound, "no/body"),
        ({"base": ""}, errors.InvalidArgument, "spec.base"),
        ({"family": "flux"}, errors.InvalidArgument, "is of family sd, not flux"),
        ({"dtype": "int4"}, errors.InvalidArgument, "spec.dtype"),
        ({"scale": float("nan")}, errors.InvalidArgument, "spec.scale"),
        ({"defaults_json": "[1]"}, errors.InvalidArgument, "spec.defaults_json"),
        ({"defaults_json": "[" * 50_000}, errors.InvalidArgument, "spec.defaults_json"),
        ({"visibility": catalog_pb2.VISIBILITY_SHARED}, errors.PermissionDenied, "admin"),
        ({"visibility": catalog_pb2.VISIBILITY_DEDICATED}, errors.InvalidArgument, "visibility"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused_by_name_and_leaves_nothing(
    me: Caller, change: dict[str, object], kind: type[errors.QuickthawError], said: str
) -> None:
    spec = a_spec()
    for name, value in change.items():
        setattr(spec, name, value)
    refused = await refusal(ask(me, spec))
    assert isinstance(refused, kind)
    assert said in refused.message
    listed = await deployments_of(me).List(deployments_pb2.ListDeploymentsRequest())
    assert not listed.deployments


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../b", ".hidden", "a//b", "a/b/c/d/e"]
)
async def test_a_path_that_leads_elsewhere_is_refused(me: Caller, path: str) -> None:
    spec = a_spec()
    spec.files[0].path = path
    assert "spec.files[0].path" in (await refusal(ask(me, spec))).message


async def test_what_operators_set_up_under_a_tenants_name_is_not_replaced(
    running: Running, me: Caller
) -> None:
    await running.admin.catalog.Register(catalog_pb2.RegisterRequest(model=a_model("me/theirs")))
    assert isinstance(await refusal(ask(me, a_spec("me/theirs"))), errors.AlreadyExists)


async def test_of_the_ended_ones_the_newest_are_remembered(me: Caller, packer: Packer) -> None:
    made = [await brought(me, packer) for _ in range(5)]
    listed = await deployments_of(me).List(deployments_pb2.ListDeploymentsRequest())
    # One more than is kept: it ended after the others were counted.
    assert [each.deployment_id for each in listed.deployments] == [
        each.deployment_id for each in reversed(made[1:])
    ]


async def test_deployments_are_listed_in_pages_newest_first(me: Caller, packer: Packer) -> None:
    made = [await brought(me, packer, "me/style", f"{number:064x}") for number in range(3)]
    page = deployments_pb2.ListDeploymentsRequest(page=types_pb2.Page(size=2), states=[READY])
    first = await deployments_of(me).List(page)
    page.page.token = first.next_page_token
    second = await deployments_of(me).List(page)
    listed = [each.deployment_id for each in (*first.deployments, *second.deployments)]
    assert listed == [each.deployment_id for each in reversed(made)]
