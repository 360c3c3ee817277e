"""Weights on their way in by the wire: refused while they arrive, by name, and nothing of them
stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS

HEADER = json.dumps({"a": {"dtype": "U8", "shape": [4000], "data_offsets": [0, 4000]}}).encode()
WHOLE = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4000)
PICKLE = b"\x80\x04\x95" + bytes(5000)
NAME = {"x-fal-file-name": "style.safetensors"}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_gateway(tmp_path) as rig:
        yield rig


def kept(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs" / "uploads").rglob("*") if path.is_file()]


async def test_a_pickle_is_refused_at_its_first_bytes_of_many(rig: Rig, tmp_path: Path) -> None:
    address = rig.listening.http
    reader, writer = await asyncio.open_connection(address.host, address.port)
    key = rig.http.headers["authorization"]
    head = (
        "POST /cdn/files/upload HTTP/1.1",
        *("host: gateway", f"authorization: {key}", "x-fal-file-name: style.safetensors"),
        f"content-length: {10**10}",
    )
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + PICKLE[:100])
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"style.safetensors: this is a pickle" in answer
    assert not kept(tmp_path)
    writer.close()


async def test_who_goes_on_sending_what_was_refused_still_reads_why(rig: Rig) -> None:
    content = PICKLE + bytes(8 * 1024 * 1024)
    answer = await rig.http.post("/cdn/files/upload", content=content, headers=NAME)
    assert answer.status_code == 400
    assert "this is a pickle" in answer.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WHOLE[:-1], "cut short after 4073 of 4074"),
        (WHOLE + b"x", "goes on after"),
        (b"PK\x03\x04" + bytes(100), "pickle"),
        (b"\xff" * 100, "header"),
        (b"", "cut short"),
    ],
)
async def test_what_is_no_whole_safetensors_file_is_named_and_not_kept(
    rig: Rig, tmp_path: Path, content: bytes, said: str
) -> None:
    answer = await rig.http.post("/cdn/files/upload", content=content, headers=NAME)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]
    assert not kept(tmp_path)


async def test_whole_weights_and_files_of_other_names_are_taken(rig: Rig) -> None:
    for name, content in (("a.SafeTensors", WHOLE), ("notes.txt", PICKLE), ("a.ckpt", PICKLE)):
        headers = {"x-fal-file-name": name}
        answer = await rig.http.post("/cdn/files/upload", content=content, headers=headers)
        assert answer.status_code == 200
        assert (await rig.http.get(answer.json()["access_url"])).content == content


async def in_parts(rig: Rig, *parts: bytes) -> tuple[int, str]:
    """Of the first answer that is no success, or of the last one."""
    begun = (await rig.http.post("/cdn/files/upload/multipart", headers=NAME)).json()
    below = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    tags = []
    for number, content in enumerate(parts, 1):
        answer = await rig.http.put(f"{below}/{number}", content=content)
        if answer.status_code != 200:
            return answer.status_code, answer.text
        tags.append(answer.json())
    answer = await rig.http.post(f"{below}/complete", json={"parts": tags})
    return answer.status_code, answer.text


async def test_parts_are_looked_at_from_the_first_and_counted_at_the_end(rig: Rig) -> None:
    cut = len(HEADER) // 2
    assert (await in_parts(rig, WHOLE[:cut], WHOLE[cut:100], WHOLE[100:]))[0] == 200
    for parts, said in (
        ((PICKLE, b"never sent"), "pickle"),
        ((WHOLE[:2000], WHOLE[2000:-1]), "cut short"),
        ((WHOLE[:2000], WHOLE[2000:], b"more"), "goes on after"),
        ((WHOLE[:cut], b"x" * 5000), "no JSON"),
    ):
        status, text = await in_parts(rig, *parts)
        assert status == 400
        assert said in text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "alice/x"}, "files"),
        ({"name": "alice/x", "files": []}, "files"),
        ({"name": "alice/x", "files": [7]}, "files"),
        ({"name": "alice/x", "files": ["http://elsewhere/a"]}, "files"),
        ({"name": "alice/x", "files": [{"url": "a", "id": "b"}]}, "files"),
        ({"name": "alice/x", "files": ["x"], "defaults": []}, "defaults"),
        ({"name": "alice/x", "files": ["x"], "scale": "1"}, "scale"),
        ({"name": "alice/x", "files": ["x"], "visibility": "dedicated"}, "visibility"),
        ({"name": "alice/x", "files": ["x"], "colour": "red"}, "colour"),
    ],
)
async def test_a_field_that_is_wrong_is_named(
    rig: Rig, body: dict[str, object], field: str
) -> None:
    answer = await rig.http.post("/v1/deployments", json=body)
    assert answer.status_code == 422
    assert field in answer.json()["detail"][0]["loc"]


async def test_a_pickle_by_its_name_is_no_file_to_deploy(rig: Rig) -> None:
    headers = {"x-fal-file-name": "model.ckpt"}
    stored = await rig.http.post("/cdn/files/upload", content=PICKLE, headers=headers)
    body = {"name": "alice/x", "files": [stored.json()["access_url"]]}
    answer = await rig.http.post("/v1/deployments", json=body)
    assert answer.status_code == 422
    assert "model.ckpt: this is a pickle" in answer.text


async def test_a_gateway_that_keeps_no_files_says_so(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_blobs=False) as rig:
        assert (await rig.http.post("/v1/deployments", json={})).status_code == 501
