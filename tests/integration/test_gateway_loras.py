"""LoRAs that arguments name: where they may come from, what they may be, how long they are kept."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from quickthaw.gateway.settings import Limits
from support.fake_inference import MODEL_ID
from support.gateway_rig import Rig, a_gateway


def weights(fill: int = 1, size: int = 64) -> bytes:
    entry = {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}
    header = json.dumps({"unet.x.lora_A.weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([fill]) * 4 * size


def data_uri(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


@dataclass
class Web:
    """A server with entity tags, and what it was asked."""

    files: dict[str, bytes]
    url: str = ""
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        path = head.split(" ")[1]
        body = self.files.get(path)
        tag = f'"{hash(body)}"'
        status = "404 Not Found" if body is None else "200 OK"
        if f"if-none-match: {tag}" in head:
            status, body = "304 Not Modified", b""
        self.asked.append(status[:3])
        length = len(body or b"")
        writer.write(
            f"HTTP/1.1 {status}\r\netag: {tag}\r\ncontent-length: {length}\r\n\r\n".encode()
        )
        writer.write(body or b"")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def a_web(**files: bytes) -> AsyncIterator[Web]:
    web = Web({f"/{name}": data for name, data in files.items()})
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    web.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield web
    finally:
        server.close()
        await server.wait_closed()


async def run(rig: Rig, *paths: str, **more: object) -> httpx.Response:
    loras = [{"path": path, **more} for path in paths]
    return await rig.http.post(f"/run/{MODEL_ID}", json={"prompt": "x", "loras": loras})


async def brought(rig: Rig, *paths: str, **more: object) -> list[dict[str, object]]:
    answer = await run(rig, *paths, **more)
    assert answer.status_code == 200, answer.text
    newest = list(rig.platform.requests.values())[-1]
    found: list[dict[str, object]] = json.loads(newest.submitted.input_json)["loras"]
    return found


async def refused(answer: httpx.Response, index: int = 0) -> dict[str, object]:
    assert answer.status_code == 422, answer.text
    item: dict[str, object] = answer.json()["detail"][0]
    assert item["loc"] == ["body", "loras", index, "path"]
    return item


def kept(folder: Path, reference: object) -> bytes:
    assert isinstance(reference, str)
    assert reference.startswith("blob:loras/")
    return (folder / "blobs" / reference.removeprefix("blob:")).read_bytes()


def files_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs" / "loras").iterdir()}


async def test_a_url_is_fetched_once_and_left_for_the_worker(tmp_path: Path) -> None:
    async with a_web(a=weights()) as web, a_gateway(tmp_path, input_allow_private=True) as rig:
        (first,) = await brought(rig, f"{web.url}/a", scale=0.5)
        assert kept(tmp_path, first["path"]) == weights()
        assert first["scale"] == 0.5
        (again,) = await brought(rig, f"{web.url}/a")
        assert again["path"] == first["path"]
        assert web.asked == ["200"]


async def test_the_server_is_asked_later_whether_its_file_has_changed(tmp_path: Path) -> None:
    limits = Limits(lora_fresh_seconds=1e-9, drain_seconds=1)
    async with (
        a_web(a=weights()) as web,
        a_gateway(tmp_path, limits=limits, input_allow_private=True) as rig,
    ):
        (first,) = await brought(rig, f"{web.url}/a")
        (same,) = await brought(rig, f"{web.url}/a")
        assert web.asked == ["200", "304"]
        assert same == first
        web.files["/a"] = weights(2)
        (other,) = await brought(rig, f"{web.url}/a")
        assert kept(tmp_path, other["path"]) == weights(2)


async def test_many_who_name_one_url_at_once_have_it_fetched_once(tmp_path: Path) -> None:
    async with a_web(a=weights()) as web, a_gateway(tmp_path, input_allow_private=True) as rig:
        answers = await asyncio.gather(*(run(rig, f"{web.url}/a") for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert web.asked == ["200"]


async def test_uploads_data_uris_and_urls_of_the_same_bytes_are_one_file(tmp_path: Path) -> None:
    async with a_web(a=weights()) as web, a_gateway(tmp_path, input_allow_private=True) as rig:
        sent = await rig.http.post("/cdn/files/upload", content=weights())
        own = sent.json()["access_url"]
        found = await brought(rig, own, data_uri(weights()), f"{web.url}/a")
        assert len({str(each["path"]) for each in found}) == 1
        assert len(files_in(tmp_path)) == 1


async def test_ids_of_models_are_left_for_the_scheduler_and_other_fields_for_nobody(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        assert await brought(rig, "me/style", scale=None, force=True) == [{"path": "me/style"}]


async def test_replicates_arguments_for_one_lora_are_understood(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        arguments = {"prompt": "x", "lora_weights": "me/style", "lora_scale": 0.7}
        answer = await rig.http.post(f"/run/{MODEL_ID}", json=arguments)
        assert answer.status_code == 200, answer.text
        (request,) = rig.platform.requests.values()
        given = json.loads(request.submitted.input_json)
        assert given == {"prompt": "x", "loras": [{"path": "me/style", "scale": 0.7}]}


async def test_a_private_address_is_not_asked(tmp_path: Path) -> None:
    async with a_web(a=weights()) as web, a_gateway(tmp_path) as rig:
        item = await refused(await run(rig, data_uri(weights()), f"{web.url}/a"), 1)
        assert item["type"] == "file_download_error"
        assert "private" in str(item["msg"])
        assert web.asked == []


async def test_somebody_elses_file_is_none_for_the_caller_even_if_it_is_known(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {
            "authorization": "Key qt_bob_secret",
            "x-fal-object-lifecycle": '{"initial_acl": {"default": "hide"}}',
        }
        sent = await rig.nobody.post("/cdn/files/upload", content=weights(), headers=headers)
        url = sent.json()["access_url"]
        arguments = {"prompt": "x", "loras": [{"path": url}]}
        own = await rig.nobody.post(f"/run/{MODEL_ID}", json=arguments, headers=headers)
        assert own.status_code == 200
        assert (await refused(await run(rig, url)))["type"] == "file_download_error"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80\x04cposix\nsystem\n.", "pickle"),
        (b"<html>", "cut short"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "header"),
        (weights()[:-1], "cut short"),
        (weights() + b"x", "goes on"),
        ((16).to_bytes(8, "little") + b'{"a":{"dtype":1}', "JSON"),
    ],
    ids=["pickle", "page", "bomb", "cut", "longer", "header"],
)
async def test_what_is_no_safetensors_file_is_refused_and_nothing_stays(
    data: bytes, why: str, tmp_path: Path
) -> None:
    async with a_web(a=data) as web, a_gateway(tmp_path, input_allow_private=True) as rig:
        for path in (data_uri(data), f"{web.url}/a"):
            item = await refused(await run(rig, path))
            assert item["type"] == "file_invalid"
            assert "loras[0].path" in str(item["msg"])
            assert why in str(item["msg"])
        assert not rig.platform.requests
        assert files_in(tmp_path) == set()


async def test_a_large_file_is_given_up_and_a_missing_one_told(tmp_path: Path) -> None:
    limits = Limits(lora_file_bytes_max=1000, drain_seconds=1)
    async with (
        a_web(a=weights(size=1000)) as web,
        a_gateway(tmp_path, limits=limits, input_allow_private=True) as rig,
    ):
        for path in (data_uri(weights(size=1000)), f"{web.url}/a"):
            item = await refused(await run(rig, path))
            assert item["type"] == "file_too_large"
            assert item["ctx"] == {"max_size": 1000}
        assert "404" in str((await refused(await run(rig, f"{web.url}/none")))["msg"])
        assert files_in(tmp_path) == set()


async def test_more_than_a_request_may_name_are_refused(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=Limits(loras_max=1, drain_seconds=1)) as rig:
        answer = await run(rig, "me/a", "me/b")
        assert answer.status_code == 422
        item = answer.json()["detail"][0]
        assert (item["loc"], item["type"]) == (["body", "loras"], "sequence_too_long")


async def test_the_least_recently_used_goes_when_there_is_no_room(tmp_path: Path) -> None:
    size = len(weights())
    limits = Limits(
        loras_stored_bytes_max=2 * size, lora_kept_seconds=1e-9, lora_fresh_seconds=1e-9
    )
    async with a_gateway(tmp_path, limits=limits) as rig:
        first, second = [(await brought(rig, data_uri(weights(fill))))[0] for fill in (1, 2)]
        await brought(rig, data_uri(weights(1)))
        (third,) = await brought(rig, data_uri(weights(3)))
        names = {str(each["path"]).rpartition("/")[2] for each in (first, third)}
        assert files_in(tmp_path) == names, f"{second} was used the longest time ago"


async def test_what_waiting_requests_may_need_does_not_go(tmp_path: Path) -> None:
    limits = Limits(loras_stored_bytes_max=len(weights()), drain_seconds=1)
    async with a_gateway(tmp_path, limits=limits) as rig:
        (first,) = await brought(rig, data_uri(weights(1)))
        full = await run(rig, data_uri(weights(2)))
        assert full.status_code in (429, 503), full.text
        assert "try again later" in full.text
        assert kept(tmp_path, first["path"]) == weights(1)


async def test_without_a_blob_store_small_files_travel_inside_the_input(tmp_path: Path) -> None:
    async with (
        a_web(a=weights()) as web,
        a_gateway(tmp_path, with_blobs=False, input_allow_private=True) as rig,
    ):
        (found,) = await brought(rig, f"{web.url}/a")
        assert found["path"] == data_uri(weights())


async def test_files_are_brought_for_a_call_that_is_made_elsewhere(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        arguments = {"prompt": "x", "loras": [{"path": data_uri(weights())}]}
        answer = await rig.http.post(f"/v1/inputs/{MODEL_ID}", json=arguments)
        assert answer.status_code == 200, answer.text
        given = answer.json()["input"]
        assert given["prompt"] == "x"
        assert kept(tmp_path, given["loras"][0]["path"]) == weights()
        assert not rig.platform.requests
        await refused(
            await rig.http.post(f"/v1/inputs/{MODEL_ID}", json={"loras": [{"path": "data:x"}]})
        )
        assert (await rig.http.post("/v1/inputs/no/such", json={})).status_code == 404
        assert (await rig.nobody.post(f"/v1/inputs/{MODEL_ID}", json={})).status_code == 401
