"""URLs of LoRAs lead to the public internet and to nothing of ours, as those of pictures do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from quickthaw.gateway.settings import Limits
from support.fake_inference import MODEL_ID
from support.gateway_rig import Rig, a_gateway
from support.internet import PRIVATE, PUBLIC, Internet, Site, an_answer, an_internet

WEIGHTS = (2).to_bytes(8, "little") + b"{}"
SPELLINGS = (
    *("127.0.0.1", "localhost.", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"),
    *("10.0.0.1", "169.254.169.254", "[64:ff9b::7f00:1]", "127\u30020\u30020\u30021"),
)


@pytest.fixture
def internet() -> Iterator[Internet]:
    with an_internet() as made:
        yield made


@pytest.fixture
async def canary(internet: Internet) -> AsyncIterator[Site]:
    async with internet.site(PRIVATE, an_answer(WEIGHTS)) as site:
        yield site
        assert site.heads == [], "somebody connected to what is private"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_gateway(tmp_path, limits=Limits(lora_seconds=3, drain_seconds=1)) as rig:
        yield rig


async def fetched(rig: Rig, url: str) -> httpx.Response:
    loras = [{"path": url}]
    return await rig.http.post(f"/run/{MODEL_ID}", json={"prompt": "x", "loras": loras})


async def refused(rig: Rig, url: str) -> str:
    answer = await fetched(rig, url)
    assert answer.status_code == 422, answer.text
    item = answer.json()["detail"][0]
    assert item["loc"] == ["body", "loras", 0, "path"]
    assert item["type"] == "file_download_error"
    return str(item["msg"])


async def test_no_spelling_of_a_private_address_is_fetched(rig: Rig, canary: Site) -> None:
    for host in SPELLINGS:
        await refused(rig, f"http://{host}:{canary.port}/a.safetensors")
    assert not rig.platform.requests


async def test_a_public_site_is_fetched_and_its_redirect_to_a_private_one_is_not(
    rig: Rig, internet: Internet, canary: Site
) -> None:
    async with internet.site(PUBLIC, an_answer(WEIGHTS)) as site:
        assert (await fetched(rig, f"{site.url}/a")).status_code == 200
    moved = an_answer(b"", "302 Found", f"location: {canary.url}/a")
    async with internet.site(PUBLIC, moved) as site:
        assert "private" in await refused(rig, f"{site.url}/a")


async def test_a_name_is_judged_anew_when_its_file_is_asked_for_again(
    tmp_path: Path, internet: Internet, canary: Site
) -> None:
    internet.names["turning.test"] = [[PUBLIC], [PRIVATE]]
    limits = Limits(lora_fresh_seconds=1e-9, lora_seconds=3, drain_seconds=1)
    async with (
        a_gateway(tmp_path, limits=limits) as rig,
        internet.site(PUBLIC, an_answer(WEIGHTS)) as site,
    ):
        url = f"http://turning.test:{site.port}/a"
        assert (await fetched(rig, url)).status_code == 200
        await refused(rig, url)


async def test_a_server_that_never_ends_or_compresses_is_given_up(
    rig: Rig, internet: Internet
) -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + WEIGHTS
    packed = an_answer(WEIGHTS, "200 OK", "content-encoding: gzip")
    for answer in (endless, packed):
        async with internet.site(PUBLIC, answer) as site:
            await refused(rig, f"{site.url}/a")
