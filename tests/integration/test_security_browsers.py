"""Which pages a browser lets call: any by default, or those of the named origins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from quickthaw.gateway.cors import Cors
from quickthaw.gateway.server import running
from quickthaw.gateway.settings import GatewaySettings, Limits, parse_settings
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from support.fake_inference import ALICE_KEY, FakePlatform, served

OURS, THEIRS = "https://app.example.com", "https://evil.example.com"


@asynccontextmanager
async def a_gateway_for(*origins: str) -> AsyncIterator[httpx.AsyncClient]:
    async with served(FakePlatform()) as port:
        settings = GatewaySettings(
            scheduler=Address("127.0.0.1", port),
            http=Address("127.0.0.1", 0),
            cors_origins=frozenset(origins),
            limits=Limits(drain_seconds=1),
        )
        async with (
            running(settings) as listening,
            httpx.AsyncClient(base_url=listening.public_url) as http,
        ):
            yield http


async def test_a_named_origin_is_answered_by_name_and_no_other_is() -> None:
    async with a_gateway_for(OURS) as http:
        for method, path in (("GET", "/health"), ("OPTIONS", "/run/a/b"), ("GET", "/nothing/x/y")):
            ours = await http.request(method, path, headers={"origin": OURS})
            assert ours.headers["access-control-allow-origin"] == OURS
            assert "origin" in ours.headers["vary"]
            for origin in (THEIRS, "null", OURS + ".evil.com", OURS.upper(), "http" + OURS[5:]):
                theirs = await http.request(method, path, headers={"origin": origin})
                assert "access-control-allow-origin" not in theirs.headers, origin
                assert "origin" in theirs.headers["vary"]


async def test_credentials_are_never_allowed() -> None:
    for origins in ((), (OURS,)):
        async with a_gateway_for(*origins) as http:
            answer = await http.options("/run/a/b", headers={"origin": OURS})
            assert "access-control-allow-credentials" not in answer.headers


async def test_a_websocket_of_another_page_is_refused_and_of_no_page_is_not() -> None:
    async with a_gateway_for(OURS) as http:
        url = str(http.base_url).replace("http://", "ws://") + "/run/quickthaw/shapes"
        key = {"authorization": f"Key {ALICE_KEY}"}
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, additional_headers=key, origin=Origin(THEIRS)):
                pass
        assert refused.value.response.status_code == 403
        for origin in (Origin(OURS), None):
            async with connect(url, additional_headers=key, origin=origin):
                pass


@pytest.mark.parametrize(
    "text", ["*", "app.example.com", "https://app.example.com/", "https://A.b", "ftp://a"]
)
def test_what_is_no_origin_is_a_clear_error(text: str) -> None:
    with pytest.raises(SettingsInvalid, match="--cors-origin"):
        parse_settings(["--scheduler", "127.0.0.1:1", "--cors-origin", text])


def test_origins_are_read_from_the_command_line() -> None:
    flags = ["--cors-origin", OURS, "--cors-origin", "http://localhost:3000"]
    settings = parse_settings(["--scheduler", "127.0.0.1:1", *flags])
    assert settings.cors_origins == {OURS, "http://localhost:3000"}
    assert Cors(settings.cors_origins).admits(OURS)
