"""URLs that callers name lead to the public internet and to nothing of ours.

Each test has a canary on loopback: a server that nobody may so much as connect to.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from quickthaw.client import AsyncClient
from quickthaw.gateway.settings import Limits, parse_settings
from quickthaw.v1 import webhooks_pb2, webhooks_pb2_grpc
from support.fake_inference import MODEL_ID
from support.gateway_rig import Rig, a_gateway
from support.internet import PRIVATE, PUBLIC, Internet, Site, an_answer, an_internet
from support.patience import PATIENCE_SECONDS
from support.schedulers import a_scheduler
from support.whole import Whole, a_whole_platform

SPELLINGS = (
    *("127.0.0.1", "localhost", "localhost.", "LOCALHOST", "2130706433", "0x7f000001", "127.1"),
    *("0177.0.0.1", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "10.0.0.1", "192.168.0.1", "172.16.0.1"),
    *("169.254.169.254", "[fe80::1]", "[fc00::1]", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
    *("\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "%6c%6f%63alhost", "[::1%25lo]"),
)


@pytest.fixture
def internet() -> Iterator[Internet]:
    with an_internet() as made:
        yield made


@pytest.fixture
async def canary(internet: Internet) -> AsyncIterator[Site]:
    async with internet.site(PRIVATE, an_answer(a_picture())) as site:
        yield site
        assert site.heads == [], "somebody connected to what is private"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    limits = Limits(input_seconds=3, drain_seconds=1)
    async with a_gateway(tmp_path, limits=limits) as rig:
        yield rig


def a_picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "PNG")
    return data.getvalue()


async def fetched(rig: Rig, url: str) -> httpx.Response:
    return await rig.http.post(f"/run/{MODEL_ID}", json={"prompt": "x", "image_url": url})


# ---- inputs --------------------------------------------------------------------------------------


async def test_no_spelling_of_a_private_address_is_fetched(rig: Rig, canary: Site) -> None:
    for host in SPELLINGS:
        answer = await fetched(rig, f"http://{host}:{canary.port}/a.png")
        assert answer.status_code == 422, host
        assert answer.json()["detail"][0]["type"] == "file_download_error", host
    assert not rig.platform.requests


async def test_a_public_site_is_fetched(rig: Rig, internet: Internet, canary: Site) -> None:
    """So that the refusals here are refusals of something."""
    async with internet.site(PUBLIC, an_answer(a_picture())) as site:
        assert (await fetched(rig, f"{site.url}/a.png")).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:7f00:1]", "inside.test"])
async def test_a_redirect_leads_to_nothing_private(
    rig: Rig, internet: Internet, canary: Site, host: str
) -> None:
    internet.names["inside.test"] = [[PRIVATE]]
    moved = an_answer(b"", "302 Found", f"location: http://{host}:{canary.port}/")
    async with internet.site(PUBLIC, moved) as site:
        answer = await fetched(rig, site.url)
        assert answer.status_code == 422
        assert "private" in answer.text
        assert len(site.heads) == 1


async def test_what_a_name_means_a_moment_later_makes_no_difference(
    rig: Rig, internet: Internet, canary: Site
) -> None:
    internet.names["turning.test"] = [[PUBLIC], [PRIVATE]]
    # Nobody listens there at the public address, so that only a second look-up could succeed.
    turning = f"http://turning.test:{canary.port}/"
    answer = await fetched(rig, turning)
    assert answer.status_code == 422
    assert internet.looked_up == ["turning.test"]
    assert "private" in (await fetched(rig, turning)).text
    assert internet.looked_up == ["turning.test"] * 2


async def test_of_a_names_addresses_only_public_ones_are_tried(
    rig: Rig, internet: Internet, canary: Site
) -> None:
    internet.names["mixed.test"] = [[PRIVATE, PUBLIC, "10.0.0.1"]]
    assert (await fetched(rig, f"http://mixed.test:{canary.port}/")).status_code == 422


async def test_no_error_tells_what_is_inside(rig: Rig, internet: Internet, canary: Site) -> None:
    """Whether a port is open, or what a name means there, is nobody's business."""
    internet.names |= {"db.test": [["10.1.2.3"]], "web.test": [[PRIVATE]]}
    texts = set()
    for url in (f"http://db.test:{canary.port}/", f"http://web.test:{canary.port}/"):
        (told,) = (await fetched(rig, url)).json()["detail"]
        del told["url"]  # of our own page about errors
        text = json.dumps(told)
        assert "10.1.2.3" not in text
        assert PRIVATE not in text
        texts.add(text.replace("db.test", "*").replace("web.test", "*"))
    assert len(texts) == 1


async def test_a_data_uri_and_an_environment_proxy_go_nowhere(
    tmp_path: Path, internet: Internet, canary: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "data:image/png;base64," + base64.b64encode(a_picture()).decode()
    async with a_gateway(tmp_path) as rig, internet.site(PUBLIC, an_answer(a_picture())) as site:
        # Now, and not before: the test's own client would ask the proxy.
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, canary.url)
        assert (await fetched(rig, uri)).status_code == 200
        assert (await fetched(rig, site.url)).status_code == 200
        assert len(site.heads) == 1


# ---- webhooks ------------------------------------------------------------------------------------


async def told(whole: Whole, url: str) -> webhooks_pb2.Webhook:
    """The webhook after its first attempt."""
    answer = await whole.http.post(
        "/queue/test/tiny", params={"fal_webhook": url}, json={"prompt": "x"}
    )
    assert answer.status_code == 200, answer.text
    return await attempted(whole, answer.json()["request_id"], 1)


async def attempted(whole: Whole, request_id: str, times: int) -> webhooks_pb2.Webhook:
    stub = webhooks_pb2_grpc.WebhooksStub(whole.scheduler.admin.channel)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await stub.Get(webhooks_pb2.GetWebhookRequest(request_id=request_id))
            if len(found.history) >= times:
                return found
            await asyncio.sleep(0.01)


async def test_no_webhook_is_told_to_a_private_address(
    tmp_path: Path, internet: Internet, canary: Site
) -> None:
    internet.names["inside.test"] = [[PRIVATE]]
    async with a_whole_platform(tmp_path, allow_private=False) as whole, whole.worker():
        for host in ("127.0.0.1", "0", "[::ffff:127.0.0.1]", "inside.test", "169.254.169.254"):
            found = await told(whole, f"http://{host}:{canary.port}/hook")
            assert found.state == webhooks_pb2.WEBHOOK_STATE_FAILED, host
            assert "private" in found.history[0].error


async def test_a_webhooks_redirect_is_not_followed_and_a_name_is_judged_at_each_attempt(
    tmp_path: Path, internet: Internet, canary: Site
) -> None:
    internet.names["turning.test"] = [[PUBLIC], [PRIVATE]]
    moved = an_answer(b"", "307 Moved", f"location: {canary.url}/")
    async with (
        a_whole_platform(tmp_path, allow_private=False) as whole,
        whole.worker(),
        internet.site(PUBLIC, moved) as site,
    ):
        found = await told(whole, f"http://turning.test:{site.port}/hook")
        assert (found.state, found.history[0].status) == (webhooks_pb2.WEBHOOK_STATE_DUE, 307)
        stub = webhooks_pb2_grpc.WebhooksStub(whole.scheduler.admin.channel)
        await stub.Redeliver(webhooks_pb2.RedeliverWebhookRequest(request_id=found.request_id))
        again = await attempted(whole, found.request_id, 2)
        assert again.state == webhooks_pb2.WEBHOOK_STATE_FAILED
        assert "private" in again.history[1].error
        assert len(site.heads) == 1


async def test_a_key_goes_to_the_scheduler_and_to_no_proxy_of_the_environment(
    tmp_path: Path, canary: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_scheduler(tmp_path) as scheduler:
        for name in ("grpc_proxy", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, canary.url)
        async with AsyncClient(scheduler.address, scheduler.admin.key) as client:
            assert await client.workers.list() == ()


# ---- by leave ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "0", "yes", "true", "2"])
def test_only_a_one_allows_private_addresses(value: str) -> None:
    flags = ["--scheduler", "127.0.0.1:1"]
    names = ("QUICKTHAW_INPUT_ALLOW_PRIVATE", "QUICKTHAW_WEBHOOK_ALLOW_PRIVATE")
    refused = parse_settings(flags, dict.fromkeys(names, value))
    assert not refused.input_allow_private
    assert not refused.webhook_allow_private
    allowed = parse_settings(flags, dict.fromkeys(names, "1"))
    assert allowed.input_allow_private
    assert allowed.webhook_allow_private
