"""One port for plain HTTP, TLS and CONNECT."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from quickthaw.gateway.door import Authority
from quickthaw.wire.errors import SettingsInvalid
from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS

KEY = {"authorization": f"Key {ALICE_KEY}"}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_gateway(tmp_path, with_tls=True) as rig:
        yield rig


def trusting(tmp_path: Path, file: str = "ca.pem") -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(tmp_path / "tls" / file))


async def answer_to(rig: Rig, *said: bytes) -> bytes:
    """What comes back until the gateway closes; each piece is sent after a turn of the loop."""
    address = rig.listening.http
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for piece in said:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read()
    finally:
        writer.close()


# ---- the three kinds ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["ca.pem", "bundle.pem"])
async def test_tls_on_the_port_is_plain_http_inside(rig: Rig, tmp_path: Path, file: str) -> None:
    port = rig.listening.http.port
    async with httpx.AsyncClient(verify=trusting(tmp_path, file)) as client:
        for host in ("127.0.0.1", "localhost"):
            answer = await client.get(f"https://{host}:{port}/health")
            assert answer.status_code == 200


@pytest.mark.parametrize("host", ["fal.run", "queue.fal.run", "rest.fal.ai", "v3.fal.media"])
async def test_connect_leads_here_whatever_the_name(rig: Rig, tmp_path: Path, host: str) -> None:
    proxy = httpx.Proxy(rig.listening.public_url)
    async with httpx.AsyncClient(proxy=proxy, verify=trusting(tmp_path)) as client:
        answer = await client.get(f"https://{host}/no/such/thing/at/all", headers=KEY)
        # Ours: no other server on this machine could have answered for that name.
        assert "x-fal-request-id" in answer.headers
        assert "queue" in host or answer.status_code in (404, 405)


async def test_what_there_is_to_call_is_where_fal_has_it(rig: Rig, tmp_path: Path) -> None:
    proxy = httpx.Proxy(rig.listening.public_url)
    async with httpx.AsyncClient(proxy=proxy, verify=trusting(tmp_path)) as client:
        named = {"endpoint_id": "quickthaw/shapes"}
        found = await client.get("https://api.fal.ai/v1/models", params=named, headers=KEY)
        assert [each["endpoint_id"] for each in found.json()["models"]] == ["quickthaw/shapes"]
        path = "https://fal.ai/api/openapi/queue/openapi.json"
        document = await client.get(path, params=named, headers=KEY)
        assert document.json()["info"]["x-fal-metadata"]["endpointId"] == "quickthaw/shapes"


async def test_the_host_in_the_tunnel_chooses_the_surface(rig: Rig, tmp_path: Path) -> None:
    proxy = httpx.Proxy(rig.listening.public_url)
    async with httpx.AsyncClient(proxy=proxy, verify=trusting(tmp_path)) as client:
        body = {"prompt": "a picture"}
        queued = await client.post("https://queue.fal.run/quickthaw/shapes", json=body, headers=KEY)
        assert queued.status_code == 200
        assert queued.json()["status"] == "IN_QUEUE"


async def test_plain_http_in_a_tunnel_is_served_as_well(rig: Rig) -> None:
    answer = await answer_to(
        rig,
        b"CONNECT fal.run:443 HTTP/1.1\r\nHost: fal.run:443\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK")


async def test_bytes_may_come_one_at_a_time(rig: Rig) -> None:
    head = b"CONNECT fal.run:443 HTTP/1.1\r\nHost: fal.run:443\r\n\r\n"
    inner = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await answer_to(rig, *(bytes([each]) for each in head + inner))
    assert b"HTTP/1.1 200 OK" in answer


# ---- what it is not ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [b"example.org:443", b"fal.run:22", b"127.0.0.1:443", b"fal.run.evil.test:443", b"fal.run"],
)
async def test_it_is_no_proxy_for_anything_else(rig: Rig, target: bytes) -> None:
    answer = await answer_to(rig, b"CONNECT " + target + b" HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"no proxy" in answer


async def test_a_tunnel_in_a_tunnel_is_refused(rig: Rig) -> None:
    connect = b"CONNECT fal.run:443 HTTP/1.1\r\n\r\n"
    answer = await answer_to(rig, connect, connect)
    assert b"HTTP/1.1 400 " in answer


async def test_an_endless_head_is_cut_off(rig: Rig) -> None:
    answer = await answer_to(rig, b"CONNECT fal.run:443 HTTP/1.1\r\nX: " + b"a" * 20_000)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_name_beyond_the_authority_is_not_trusted(rig: Rig, tmp_path: Path) -> None:
    port = rig.listening.http.port
    context = trusting(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="bank.test")


async def test_a_name_may_be_as_long_as_names_are(rig: Rig, tmp_path: Path) -> None:
    """The common name of a certificate may not."""
    name = f"{'a' * 63}.{'b' * 63}.fal.run"
    port, context = rig.listening.http.port, trusting(tmp_path)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    writer.close()


async def test_other_connections_do_not_wait_for_one_that_says_nothing(rig: Rig) -> None:
    address = rig.listening.http
    silent = [await asyncio.open_connection(address.host, address.port) for _ in range(50)]
    assert (await rig.http.get("/health")).status_code == 200
    for _, writer in silent:
        writer.close()


# ---- certificates ------------------------------------------------------------------------------


async def test_the_authority_is_served_and_stays_the_same(rig: Rig, tmp_path: Path) -> None:
    served = (await rig.nobody.get("/ca.pem")).content
    assert served == (tmp_path / "tls" / "ca.pem").read_bytes()
    assert Authority(tmp_path / "tls").ca_pem == served
    assert (tmp_path / "tls" / "ca.key").stat().st_mode & 0o777 == 0o600


def test_the_authority_can_vouch_for_its_own_names_only(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(Authority(tmp_path).ca_pem)
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    names = [str(each.value) for each in found.value.permitted_subtrees or []]
    assert names[:5] == ["fal.run", "fal.ai", "fal.media", "falrun.com", "localhost"]


@pytest.mark.parametrize("broken", ["ca.pem", "ca.key"])
def test_a_broken_authority_is_named_and_not_replaced(tmp_path: Path, broken: str) -> None:
    Authority(tmp_path)
    (tmp_path / broken).write_text("nonsense")
    with pytest.raises(SettingsInvalid, match="remove the folder"):
        Authority(tmp_path)


def test_without_an_authority_there_is_no_file_to_trust(tmp_path: Path) -> None:
    async def ask() -> int:
        async with a_gateway(tmp_path) as rig:
            return (await rig.nobody.get("/ca.pem")).status_code

    assert asyncio.run(ask()) == 404


async def test_an_operators_own_certificate_is_used_for_other_names(tmp_path: Path) -> None:
    other = Authority(tmp_path / "operator")
    chain = tmp_path / "chain.pem"
    key = tmp_path / "key.pem"
    # Any certificate will do; the local authority's own leaf for another name is one.
    chain.write_bytes(other.leaf_pem("operator.localhost"))
    key.write_bytes(other.leaf_key_pem)
    context = ssl.create_default_context(cafile=str(tmp_path / "operator" / "ca.pem"))
    async with a_gateway(tmp_path, own_certificate=(chain, key)) as rig:
        port = rig.listening.http.port
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="operator.localhost"
        )
        writer.close()
