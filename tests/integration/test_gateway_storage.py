"""Uploads by the wire, in every form that clients use, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from quickthaw.gateway.settings import Limits
from support.fake_inference import BOB_KEY
from support.gateway_rig import Rig, a_gateway

DATA = bytes(range(256)) * 1000


async def a_token(rig: Rig) -> str:
    answer = await rig.http.post("/rest/storage/auth/token?storage_type=fal-cdn-v3", json={})
    return str(answer.json()["token"])


async def uploaded(rig: Rig, data: bytes = DATA, **headers: str) -> httpx.Response:
    """By the Python client's way, to the host that it has fixed in its code."""
    sent = {
        "host": "v3.fal.media",
        "authorization": f"Bearer {await a_token(rig)}",
        "content-type": "image/png",
        "x-fal-file-name": "a b.png",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return await rig.nobody.post("/files/upload", content=data, headers=sent)


async def file_of(rig: Rig, data: bytes = DATA, **headers: str) -> str:
    answer = await uploaded(rig, data, **headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_url"])


def stored_files(folder: Path, below: str = "uploads") -> list[str]:
    """Without the marks of the sweeper and of the store itself."""
    root = folder / "blobs" / below
    marks = {folder / "blobs" / "expiry", folder / "blobs" / "probes"}
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and marks.isdisjoint(path.parents)
    )


async def test_a_token_for_uploads_ends_at_a_time_with_its_offset(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        answer = (await rig.http.post("/rest/storage/auth/token", json={})).json()
        assert answer["token_type"] == "Bearer"
        assert answer["base_url"] == f"{rig.listening.public_url}/cdn"
        assert answer["expires_at"].endswith("+00:00")
        ends = datetime.fromisoformat(answer["expires_at"])
        assert timedelta(minutes=30) < ends - datetime.now(UTC) <= timedelta(hours=1)


async def test_an_uploaded_file_is_served_byte_for_byte_without_a_key(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        url = await file_of(rig)
        assert url.startswith(f"{rig.listening.public_url}/files/")
        answer = await rig.nobody.get(url)
        assert answer.content == DATA
        assert answer.headers["content-type"] == "image/png"
        assert "a%20b.png" in answer.headers["content-disposition"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        part = await rig.nobody.get(url, headers={"range": "bytes=1000-1009"})
        assert (part.status_code, part.content) == (206, DATA[1000:1010])
        behind = await rig.nobody.get(url, headers={"range": f"bytes={len(DATA)}-"})
        assert behind.status_code == 416
        assert behind.headers["content-range"] == f"bytes */{len(DATA)}"
        head = await rig.nobody.head(url)
        assert (head.headers["content-length"], head.content) == (str(len(DATA)), b"")
        same = await rig.nobody.get(url, headers={"if-none-match": answer.headers["etag"]})
        assert same.status_code == 304
        as_cdn = await rig.nobody.get(urlsplit(url).path, headers={"host": "v3.fal.media"})
        assert as_cdn.content == DATA


async def test_a_javascript_upload_puts_to_a_url_that_needs_no_key(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        wanted = {"content_type": "text/plain", "file_name": "notes.txt"}
        for storage_type in ("fal-cdn-v3", "gcs"):
            path = f"/rest/storage/upload/initiate?storage_type={storage_type}"
            begun = (await rig.http.post(path, json=wanted)).json()
            headers = {"content-type": "text/plain"}
            for _ in range(2):  # A client that missed the answer sends the same again.
                put = await rig.nobody.put(begun["upload_url"], content=b"hello", headers=headers)
                assert put.status_code == 200
            other = await rig.nobody.put(begun["upload_url"], content=b"other", headers=headers)
            assert other.status_code == 400
            answer = await rig.nobody.get(begun["file_url"])
            assert (answer.content, answer.headers["content-type"]) == (b"hello", "text/plain")
        assert len(stored_files(tmp_path)) == 4


async def test_a_javascript_upload_in_parts_keeps_its_query_and_reads_json(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        wanted = {"content_type": "video/mp4", "file_name": "v.mp4"}
        begun = (await rig.http.post("/rest/storage/upload/initiate-multipart", json=wanted)).json()
        parts = [DATA, b"", b"the end"]
        told = []
        for number, part in enumerate(parts, start=1):
            put = await rig.nobody.put(f"{begun['upload_url']}/{number}?a=b", content=part)
            assert put.json()["partNumber"] == number
            told.append(put.json())
        done = await rig.nobody.post(f"{begun['upload_url']}/complete?a=b", json={"parts": told})
        assert done.status_code == 200
        answer = await rig.nobody.get(begun["file_url"], headers={"range": "bytes=255998-256003"})
        assert answer.content == DATA[-2:] + b"the "
        assert (await rig.nobody.get(begun["file_url"])).content == b"".join(parts)


async def test_a_python_upload_in_parts_may_end_in_any_order(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {"authorization": f"Bearer {await a_token(rig)}", "content-type": "video/mp4"}
        begun = (await rig.nobody.post("/cdn/files/upload/multipart", headers=headers)).json()
        below = f"{begun['access_url']}/multipart/{begun['uploadId']}"
        etags = {}
        for number in (3, 1, 2, 1):  # Part 1 is sent twice: the etag says which of them counts.
            put = await rig.nobody.put(f"{below}/{number}", content=b"%d" % number * 10)
            etags[number] = put.headers["etag"]
        parts = [{"partNumber": number, "etag": etags[number]} for number in (2, 3, 1)]
        done = await rig.nobody.post(f"{below}/complete", json={"parts": parts})
        assert done.status_code == 200
        assert (
            await rig.nobody.get(begun["access_url"])
        ).content == b"1" * 10 + b"2" * 10 + b"3" * 10
        assert len(stored_files(tmp_path)) == 4
        again = await rig.nobody.post(f"{below}/complete", json={"parts": parts})
        assert again.status_code == 200


async def test_parts_that_were_not_uploaded_make_no_file(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        begun = (await rig.http.post("/rest/storage/upload/initiate-multipart", json={})).json()
        below = begun["upload_url"]
        put = (await rig.nobody.put(f"{below}/1", content=b"x")).json()
        for wrong in [
            {},
            {"parts": []},
            {"parts": [5]},
            {"parts": [{"partNumber": 1, "etag": "other"}]},
            {"parts": [{"partNumber": 2, "etag": put["etag"]}]},
            {"parts": [put, {**put, "partNumber": "2"}]},
            {"parts": [{"partNumber": 1, "etag": "../../x"}]},
        ]:
            answer = await rig.nobody.post(f"{below}/complete", json=wrong)
            assert answer.status_code == 400, wrong
        for number in ("0", "10001", "-1", "x"):
            assert (await rig.nobody.put(f"{below}/{number}", content=b"x")).status_code in (
                400,
                404,
                405,
            )
        assert (await rig.nobody.get(begun["file_url"])).status_code == 404


async def test_names_are_never_paths(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        for name in ["../../etc/passwd", "/abs", "..", ".", "", "a/b\\c", "x" * 500, "%2e%2e%2f"]:
            url = await file_of(rig, b"x", x_fal_file_name=name)
            tail = urlsplit(url).path.split("/")
            assert len(tail) == 4
            assert not tail[3].startswith(".")
            assert (await rig.nobody.get(url)).content == b"x"
        assert all(len(path.split("/")) == 3 for path in stored_files(tmp_path))
        assert stored_files(tmp_path, "") == sorted(
            f"uploads/{path}" for path in stored_files(tmp_path)
        )


async def test_ids_lead_to_uploads_only(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        url = await file_of(rig)
        file_id = url.split("/files/")[1].split("/")[0]
        for wrong in [
            f"/files/{file_id[:-1]}A/x",
            f"/files/{file_id}%2F..%2F/x",
            f"/files/{file_id.upper()}/x",
            "/files/..%2f..%2fadmin.key/x",
            "/files/" + "0" * 48 + "/x",
            f"/files/{file_id[:16]}/{file_id[16:]}/file.json",
        ]:
            assert (await rig.nobody.get(wrong)).status_code == 404, wrong
        assert (await rig.nobody.get(f"/files/{file_id}/any-name")).content == DATA


async def test_only_who_may_call_can_upload(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        begun = (await rig.http.post("/rest/storage/upload/initiate", json={})).json()
        ticket = begun["upload_url"].rpartition("/")[2]
        for path in (
            *("/rest/storage/auth/token", "/rest/storage/upload/initiate"),
            *("/rest/storage/upload/initiate-multipart", "/cdn/files/upload"),
        ):
            for headers in (
                {},
                {"authorization": "Bearer x"},
                {"authorization": f"Bearer {ticket}"},
            ):
                answer = await rig.nobody.post(path, content=b"{}", headers=headers)
                assert answer.status_code == 401, path
        forged = begun["upload_url"][:-4] + "AAAA"
        assert (await rig.nobody.put(forged, content=b"x")).status_code == 403
        token = await a_token(rig)
        url = f"{rig.listening.public_url}/files/upload/{token}"
        assert (await rig.nobody.put(url, content=b"x")).status_code == 403
        assert stored_files(tmp_path) == []


async def test_a_file_beyond_the_limits_leaves_nothing_behind(tmp_path: Path) -> None:
    limits = Limits(upload_file_bytes_max=1000, upload_tenant_bytes_max=1500, drain_seconds=1)
    async with a_gateway(tmp_path, limits=limits) as rig:
        for content in (bytes(1001), _chunked(bytes(1001))):
            answer = await rig.http.post("/cdn/files/upload", content=content)
            assert answer.status_code == 413
            assert answer.json()["error_type"] == "file_too_large"
        assert stored_files(tmp_path) == []
        await file_of(rig, bytes(900))
        for content in (bytes(900), _chunked(bytes(900))):
            full = await rig.http.post("/cdn/files/upload", content=content)
            assert full.status_code == 413
            assert "1500 bytes together" in full.json()["detail"]
        headers = {"authorization": f"Key {BOB_KEY}"}
        others = await rig.nobody.post("/cdn/files/upload", content=bytes(900), headers=headers)
        assert others.status_code == 200


async def _chunked(data: bytes) -> AsyncIterator[bytes]:
    """Sent without a length."""
    yield data


@pytest.mark.parametrize(
    ("default", "rules", "nobody", "bob"),
    [
        ("forbid", [], 403, 403),
        ("hide", [], 404, 404),
        ("forbid", [{"user": "bob", "decision": "allow"}], 403, 200),
        ("allow", [{"user": "bob", "decision": "hide"}], 200, 404),
    ],
)
async def test_a_file_is_kept_from_those_that_its_owner_named(
    tmp_path: Path, default: str, rules: list[dict[str, str]], nobody: int, bob: int
) -> None:
    async with a_gateway(tmp_path) as rig:
        wanted = json.dumps({"initial_acl": {"default": default, "rules": rules}})
        url = await file_of(rig, x_fal_object_lifecycle=wanted)
        assert (await rig.nobody.get(url)).status_code == nobody
        as_bob = {"authorization": f"Key {BOB_KEY}"}
        assert (await rig.nobody.get(url, headers=as_bob)).status_code == bob
        assert (await rig.http.get(url)).status_code == 200


async def test_a_lifecycle_that_means_nothing_is_refused(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        for wrong in [
            *("{", "5", '{"expiration_duration_seconds": -1}', "[" * 5000),
            *('{"initial_acl": 5}', '{"initial_acl": {"default": "perhaps"}}'),
            *('{"initial_acl": {"rules": [{}]}}', '{"expiration_duration_seconds": true}'),
        ]:
            answer = await uploaded(rig, x_fal_object_lifecycle=wrong)
            assert answer.status_code == 400, wrong
            assert "X-Fal-Object-Lifecycle" in answer.json()["detail"]


async def test_a_gateway_without_a_blob_store_says_so(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_blobs=False) as rig:
        answer = await rig.http.post("/rest/storage/upload/initiate", json={})
        assert answer.status_code == 501
        assert "--blob-store" in answer.json()["detail"]


async def test_links_and_tickets_are_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with a_gateway(tmp_path) as rig:
        begun = (await rig.http.post("/rest/storage/upload/initiate", json={})).json()
        await rig.nobody.put(begun["upload_url"], content=b"x")
        await rig.nobody.get(begun["file_url"])
        as_cdn = {"host": "v3.fal.media"}
        await rig.nobody.get(urlsplit(begun["file_url"]).path, headers=as_cdn)
        await rig.nobody.get("/health")  # On this connection all lines before are written now.
        secrets = [begun["upload_url"].split("/")[-1], begun["file_url"].split("/")[-2]]
        lines = [r.getMessage() for r in caplog.records if r.name.startswith("quickthaw")]
        assert sum("path=/files/..." in line or "path=/cdn/..." in line for line in lines) == 3
        assert not any(secret in line for line in lines for secret in secrets)
