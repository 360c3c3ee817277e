from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from quickthaw.wire.limits import ARTIFACT_CHUNK_BYTES
from support.gateway_rig import Rig, a_gateway

DATA = bytes(range(256)) * (3 * ARTIFACT_CHUNK_BYTES // 256) + b"tail"


async def a_file(rig: Rig, data: bytes = DATA, content_type: str = "image/png") -> str:
    rig.platform.hold()
    submitted = await rig.http.post("/queue/quickthaw/shapes", json={"prompt": "x"})
    request = await rig.platform.submitted()
    await request.succeed(rig.platform.picture(request, data, "a b.png", content_type))
    result = await rig.http.get(submitted.json()["response_url"])
    return str(result.json()["images"][0]["url"])


async def test_a_file_is_served_whole_to_the_holder_of_its_link(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.nobody.get(await a_file(rig))
        assert response.status_code == 200
        assert response.content == DATA
        assert response.headers["content-type"] == "image/png"
        assert response.headers["content-length"] == str(len(DATA))
        assert response.headers["accept-ranges"] == "bytes"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "a%20b.png" in response.headers["content-disposition"]


async def test_a_range_across_chunks_is_served_exactly(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        url = await a_file(rig)
        first, last = ARTIFACT_CHUNK_BYTES - 3, 2 * ARTIFACT_CHUNK_BYTES + 5
        for header, wanted in [
            (f"bytes={first}-{last}", DATA[first : last + 1]),
            ("bytes=-4", b"tail"),
            ("bytes=0-0", DATA[:1]),
            (f"bytes={ARTIFACT_CHUNK_BYTES}-{ARTIFACT_CHUNK_BYTES}", DATA[:1]),
        ]:
            response = await rig.nobody.get(url, headers={"range": header})
            assert response.status_code == 206
            assert response.content == wanted
            assert response.headers["content-length"] == str(len(wanted))
        assert response.headers["content-range"].endswith(f"/{len(DATA)}")


async def test_a_range_behind_the_end_is_refused_with_the_size(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {"range": f"bytes={len(DATA)}-"}
        response = await rig.nobody.get(await a_file(rig), headers=headers)
        assert response.status_code == 416
        assert response.headers["content-range"] == f"bytes */{len(DATA)}"


async def test_what_a_reader_has_already_is_not_sent_again(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        url = await a_file(rig)
        etag = (await rig.nobody.head(url)).headers["etag"]
        same = await rig.nobody.get(url, headers={"if-none-match": etag})
        assert (same.status_code, same.content) == (304, b"")
        stale = {"range": "bytes=0-1", "if-range": '"another"'}
        assert (await rig.nobody.get(url, headers=stale)).status_code == 200


async def test_a_head_tells_the_size_without_the_file(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.nobody.head(await a_file(rig))
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == str(len(DATA))


async def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.nobody.get(await a_file(rig, b""))
        assert (response.status_code, response.headers["content-length"]) == (200, "0")


async def test_an_altered_link_leads_nowhere(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        url = await a_file(rig)
        for wrong in [
            url.replace("/files/", "/files/A"),
            url.replace("a%20b.png", "other.png"),
            url.replace("req-1", "req-2"),
            url.replace("req-1/", "x/%2e%2e/req-1/"),
            f"{rig.listening.public_url}/files/",
            f"{rig.listening.public_url}/files/%2e%2e/artifacts/req-1/a%20b.png",
        ]:
            response = await rig.nobody.get(wrong)
            assert response.status_code in (404, 405), wrong
            assert DATA[:64] not in response.content


async def test_a_link_to_a_file_that_is_gone_is_a_404(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        url = await a_file(rig)
        rig.platform.artifacts.clear()
        assert (await rig.nobody.get(url)).status_code == 404


async def test_a_file_that_breaks_off_is_seen_to_break_off(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        url = await a_file(rig)
        uri = next(iter(rig.platform.artifacts))
        tenant, artifact, data = rig.platform.artifacts[uri]
        rig.platform.artifacts[uri] = (tenant, artifact, data[: ARTIFACT_CHUNK_BYTES + 1])
        with pytest.raises(httpx.RemoteProtocolError):
            await rig.nobody.get(url)


async def test_links_are_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with a_gateway(tmp_path) as rig:
        url = await a_file(rig)
        await rig.nobody.get(url)
        await rig.http.get("/health?fal_jwt_token=hush")
        lines = [
            record.getMessage() for record in caplog.records if record.name.startswith("quickthaw")
        ]
        assert any("surface=files" in line for line in lines)
        signature = url.split("/files/")[1].split("/")[0]
        assert not any(signature in line or "hush" in line for line in lines)
