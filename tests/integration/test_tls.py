"""TLS between the parts: the whole way of a request, and certificates that are renewed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from quickthaw.client import AsyncClient, Client, RequestState, TlsFiles
from quickthaw.gateway.server import running as a_gateway
from quickthaw.gateway.settings import GatewaySettings, Limits
from quickthaw.v1 import catalog_pb2
from quickthaw.wire.process import Address
from support.certificates import TestAuthority
from support.patience import PATIENCE_SECONDS
from support.platform import until
from support.schedulers import Running, a_scheduler
from support.workers import a_worker

ANY_PORT = Address("127.0.0.1", 0)
NOOP = catalog_pb2.Model(id="test/noop", family="noop", input_schema_json='{"type": "object"}')


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "pki")


def a_client(running: Running, tls: TlsFiles) -> AsyncClient:
    return AsyncClient(running.address, running.admin.key, tls=tls)


async def ids(client: AsyncClient) -> list[str]:
    return [model.id async for model in client.models.list()]


def flags(tls: TlsFiles) -> list[str]:
    given = ["--families", "noop", "--tls-ca", str(tls.ca)]
    return [*given, "--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)]


async def test_a_request_goes_its_whole_way_over_mutual_tls(
    tmp_path: Path, authority: TestAuthority
) -> None:
    async with AsyncExitStack() as stack:
        tls = authority.shown(mutual=True)
        running = await stack.enter_async_context(
            a_scheduler(tmp_path / "scheduler", tls=tls, models=[NOOP])
        )
        worker_flags = flags(authority.dialling("worker"))
        await stack.enter_async_context(
            a_worker(running, tmp_path / "worker", *worker_flags, key=running.worker_key)
        )
        settings = GatewaySettings(
            scheduler=running.scheduler.grpc_address,
            scheduler_tls=authority.dialling("gateway"),
            http=ANY_PORT,
            limits=Limits(drain_seconds=1),
        )
        listening = await stack.enter_async_context(a_gateway(settings))
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=listening.public_url,
                headers={"authorization": f"Key {running.admin.key}"},
                timeout=PATIENCE_SECONDS,
            )
        )
        assert (await http.post("/test/noop", json={})).status_code == 200
        assert (await http.get("/health/ready")).status_code == 200
        client = await stack.enter_async_context(a_client(running, authority.dialling("caller")))
        assert (await client.run("test/noop", {})).state == RequestState.SUCCEEDED
        with Client(running.address, running.admin.key, tls=authority.dialling("caller")) as other:
            found = await asyncio.to_thread(lambda: [each.id for each in other.models.list()])
        assert found == ["test/noop"]


async def test_a_scheduler_shows_a_renewed_certificate_and_nothing_under_way_breaks(
    tmp_path: Path, authority: TestAuthority
) -> None:
    renewed = 3
    async with (
        a_scheduler(tmp_path / "scheduler", tls=authority.shown()) as running,
        a_client(running, authority.dialling()) as before,
    ):
        request = await before.submit("test/tiny", {"prompt": "a red circle"})
        watch = before.watch(request.request_id)
        await anext(watch)
        load = asyncio.create_task(asking(before))
        for number in range(renewed):
            successor = TestAuthority(tmp_path / "pki", f"successor-{number}")
            successor.pair("server")
            async with a_client(running, successor.dialling()) as after:
                assert await ids(after) == ["test/tiny"]
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await before.cancel(request.request_id)
        assert [event async for event in watch], "the stream of before goes on to its end"


async def asking(client: AsyncClient) -> None:
    """Without a pause, several at a time."""
    while True:
        found = await asyncio.gather(*(ids(client) for _ in range(8)))
        assert found == [["test/tiny"]] * 8


async def test_half_a_renewal_is_not_shown(tmp_path: Path, authority: TestAuthority) -> None:
    async with a_scheduler(tmp_path / "scheduler", tls=authority.shown()) as running:
        for half in ("certificate", "key"):
            async with a_client(running, authority.dialling()) as client:
                authority.pair("server", half=half)
                assert await ids(client) == ["test/tiny"]


async def test_who_is_let_in_may_change_without_a_restart(
    tmp_path: Path, authority: TestAuthority
) -> None:
    newcomer = TestAuthority(tmp_path / "pki", "newcomer")
    tls = authority.shown(mutual=True)
    async with a_scheduler(tmp_path / "scheduler", tls=tls) as running:
        pair = newcomer.pair("caller")
        files = TlsFiles(authority.ca, pair.certificate, pair.key)
        authority.ca.write_bytes(authority.ca.read_bytes() + newcomer.ca.read_bytes())
        async with a_client(running, files) as client:
            assert await ids(client) == ["test/tiny"]


async def test_a_client_connects_with_its_renewed_certificate(
    tmp_path: Path, authority: TestAuthority
) -> None:
    """The scheduler lets the old one in no more; the stream of before is not asked again."""
    successor = TestAuthority(tmp_path / "pki", "successor")
    tls = authority.shown(mutual=True)
    async with a_scheduler(tmp_path / "scheduler", tls=tls) as running:
        files = authority.dialling("caller")
        blocking = Client(running.address, running.admin.key, tls=files)
        async with a_client(running, files) as client:
            request = await client.submit("test/tiny", {"prompt": "a red circle"})
            with blocking:
                watch, seen = client.watch(request.request_id), blocking.watch(request.request_id)
                await anext(watch)
                await asyncio.to_thread(next, seen)
                authority.ca.write_bytes(authority.ca.read_bytes() + successor.ca.read_bytes())
                successor.pair("server")
                successor.pair("caller")
                assert await ids(client) == ["test/tiny"]
                found = await asyncio.to_thread(lambda: [m.id for m in blocking.models.list()])
                assert found == ["test/tiny"]
                await client.cancel(request.request_id)
                assert [event async for event in watch]
                assert await asyncio.to_thread(list, seen)


async def test_a_gateway_connects_with_its_renewed_certificate(
    tmp_path: Path, authority: TestAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, it shows one that the scheduler does not take, and says so once."""
    stranger = TestAuthority(tmp_path / "pki", "stranger")
    pair = stranger.pair("gateway")
    async with a_scheduler(tmp_path / "s", tls=authority.shown(mutual=True)) as running:
        settings = GatewaySettings(
            scheduler=running.scheduler.grpc_address,
            scheduler_tls=TlsFiles(authority.ca, pair.certificate, pair.key),
            http=ANY_PORT,
            limits=Limits(drain_seconds=1, tls_check_seconds=0.02, reconnect_seconds=0.1),
        )
        caplog.set_level(logging.ERROR, "quickthaw.gateway")
        async with (
            a_gateway(settings) as listening,
            httpx.AsyncClient(base_url=listening.public_url, timeout=PATIENCE_SECONDS) as http,
        ):
            refused = await http.post("/test/tiny", json={})
            assert refused.status_code == 503
            assert refused.json()["detail"] == "the scheduler cannot be reached; try again"
            for _ in range(2):
                assert (await http.get("/health/ready")).status_code == 503
                await until(lambda: bool(caplog.messages), "a word in the log")
            assert [f"certificate {pair.certificate}" in word for word in caplog.messages] == [True]
            authority.pair("gateway")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await http.get("/health/ready")).status_code != 200:
                    pass
