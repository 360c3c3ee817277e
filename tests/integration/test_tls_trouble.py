"""What is said when two ends do not trust or understand each other, and who goes on trying."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quickthaw.client import AsyncClient, Client, TlsFiles
from quickthaw.client.retry import Context, RetryPolicy
from quickthaw.scheduler.scheduler import start
from quickthaw.wire.dialling import Dialler
from quickthaw.wire.errors import FailedPrecondition, SettingsInvalid, Unavailable
from quickthaw.wire.own_certificate import OwnCertificate
from quickthaw.wire.tls_settings import ServerTls
from support.certificates import TestAuthority
from support.patience import PATIENCE_SECONDS
from support.platform import until
from support.schedulers import Running, a_scheduler, settings_for
from support.workers import a_worker


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "pki")


@pytest.fixture
def stranger(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "pki", "stranger")


@pytest.fixture
async def mutual(tmp_path: Path, authority: TestAuthority) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "scheduler", tls=authority.shown(mutual=True)) as running:
        yield running


async def refusal(address: str, key: str, tls: TlsFiles | None = None) -> str:
    """What a client is told, the awaiting one and the blocking one alike, and at once."""
    told = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with AsyncClient(address, key, tls=tls) as client:
            with pytest.raises(FailedPrecondition) as caught:
                await client.models.get("test/tiny")
            told.append(caught.value.message)
        with Client(address, key, tls=tls) as blocking:
            with pytest.raises(FailedPrecondition) as caught:
                await asyncio.to_thread(blocking.models.get, "test/tiny")
            told.append(caught.value.message)
    assert told[0] == told[1]
    return told[0]


async def test_plain_text_to_a_port_with_tls(
    tmp_path: Path, authority: TestAuthority, mutual: Running
) -> None:
    address = mutual.address.removeprefix("grpcs://")
    assert await refusal(address, "k") == f"{address} speaks TLS: write grpcs://{address}"
    async with a_scheduler(tmp_path / "other", tls=authority.shown()) as running:
        address = running.address.removeprefix("grpcs://")
        assert "write grpcs://" in await refusal(address, "k")


async def test_tls_to_a_port_in_plain_text(mutual: Running) -> None:
    assert "speaks no TLS" in await refusal(f"grpcs://{mutual.admin.address}", "k")


async def test_the_gateways_port_given_for_the_schedulers(authority: TestAuthority) -> None:
    pair = authority.pair("gateway")
    shown = OwnCertificate(pair.certificate, pair.key).context
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=shown) as server:
        port = server.sockets[0].getsockname()[1]
        told = await refusal(f"grpcs://127.0.0.1:{port}", "k", authority.dialling())
        assert "speaks TLS but no gRPC" in told


async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_an_authority_that_is_not_known(mutual: Running, stranger: TestAuthority) -> None:
    told = await refusal(mutual.address, "k", stranger.dialling("caller"))
    assert f"signed by no authority in {stranger.ca}" in told
    assert "--tls-ca" in told
    assert "the system's roots" in await refusal(mutual.address, "k")


async def test_a_certificate_that_has_expired(tmp_path: Path, authority: TestAuthority) -> None:
    async with a_scheduler(tmp_path / "s", tls=authority.shown(days=-1)) as running:
        assert "has expired" in await refusal(running.address, "k", authority.dialling())


async def test_a_certificate_for_another_name(tmp_path: Path, authority: TestAuthority) -> None:
    async with a_scheduler(tmp_path / "s", tls=authority.shown(host="elsewhere")) as running:
        told = await refusal(running.address, "k", authority.dialling())
        assert "for other names than 127.0.0.1" in told


async def test_who_shows_no_certificate_where_one_is_asked_for(
    mutual: Running, authority: TestAuthority
) -> None:
    told = await refusal(mutual.address, "k", authority.dialling())
    assert "asks for a certificate of who calls" in told
    assert "--tls-cert and --tls-key" in told


async def test_who_shows_a_certificate_that_is_not_accepted(
    mutual: Running, authority: TestAuthority, stranger: TestAuthority
) -> None:
    pair = stranger.pair("caller")
    told = await refusal(mutual.address, "k", TlsFiles(authority.ca, pair.certificate, pair.key))
    assert f"does not accept the certificate {pair.certificate}" in told


async def test_a_scheduler_that_is_away_is_no_trouble_with_tls(
    tmp_path: Path, authority: TestAuthority
) -> None:
    async with a_scheduler(tmp_path / "s", tls=authority.shown()) as running:
        address = running.address
    once = Context(retry=RetryPolicy(attempts_max=1))
    async with AsyncClient(address, "k", tls=authority.dialling(), context=once) as client:
        with pytest.raises(Unavailable, match="connection refused"):
            await client.models.get("test/tiny")


@pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])
async def test_a_name_of_two_addresses_one_of_which_refuses_hides_nothing(
    mutual: Running, authority: TestAuthority, stranger: TestAuthority, secure: bool
) -> None:
    """gRPC tells of the last address alone, which is the one that refuses here."""
    refused = "failed to connect to all addresses; last error: UNKNOWN: Connection refused"
    port = mutual.scheduler.grpc_address.port
    pair = authority.pair("caller")
    doubted = {
        TlsFiles(stranger.ca, pair.certificate, pair.key): "signed by no authority",
        TlsFiles(authority.ca): "asks for a certificate",
    }
    for files, words in doubted.items() if secure else [(None, "speaks TLS: write grpcs://")]:
        dialler = Dialler(f"localhost:{port}", files, [])
        assert words in (await asyncio.to_thread(dialler.trouble, refused) or "")
    well = Dialler(f"localhost:{port}", authority.dialling("caller"), [])
    assert await asyncio.to_thread(well.trouble, refused) is None


async def test_a_worker_says_once_what_is_wrong_and_goes_on_until_it_is_mended(
    tmp_path: Path,
    authority: TestAuthority,
    stranger: TestAuthority,
    mutual: Running,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = stranger.pair("worker")
    given = ["--families", "noop", "--tls-ca", str(authority.ca)]
    given += ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
    given += ["--blob-store", mutual.settings.blob_store]
    caplog.set_level(logging.WARNING, "quickthaw.worker")
    async with a_worker(mutual, tmp_path / "w", *given, key=mutual.worker_key) as running:
        await until(lambda: running.metric("stream_reconnects_total") >= 5, "five tries")
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1, told
        assert re.search(r"lost: .* does not accept the certificate .*; tried again", told[0])
        authority.pair("worker")
        attached = asyncio.create_task(running.ready.wait())
        await asyncio.wait(
            (attached, running.done), timeout=PATIENCE_SECONDS, return_when="FIRST_COMPLETED"
        )
        assert attached.done()


async def test_files_that_cannot_be_used_keep_a_scheduler_from_starting(
    tmp_path: Path, authority: TestAuthority
) -> None:
    good, other = authority.pair("server"), authority.pair("other")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no PEM\n")
    missing = tmp_path / "missing.pem"
    wrong = {
        ServerTls(good.certificate, other.key): f"{other.key} does not belong to the certificate",
        ServerTls(missing, good.key): f"certificate {missing} cannot be read: No such file",
        ServerTls(good.certificate, garbage): f"{garbage} holds no private key in PEM",
        ServerTls(garbage, good.key): f"{garbage} holds no certificate in PEM",
        ServerTls(good.certificate, good.key, good.key): f"{good.key} holds no certificate",
    }
    for tls, words in wrong.items():
        with pytest.raises(SettingsInvalid, match=re.escape(words)):
            await start(dataclasses.replace(settings_for(tmp_path / "s"), tls=tls))


async def test_files_that_cannot_be_used_keep_a_client_from_being_made(
    tmp_path: Path, authority: TestAuthority
) -> None:
    with pytest.raises(SettingsInvalid, match=r"nowhere\.pem cannot be read"):
        Client("grpcs://box:7070", "k", tls=TlsFiles(tmp_path / "nowhere.pem"))
    with pytest.raises(SettingsInvalid, match="the key is missing"):
        TlsFiles(None, authority.ca)
    with pytest.raises(SettingsInvalid, match="write grpcs://box:7070"):
        Client("box:7070", "k", tls=authority.dialling())
