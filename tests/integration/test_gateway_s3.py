"""Uploads, input pictures and artifacts in a bucket: what a folder passes, briefly."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store
from PIL import Image

from quickthaw.gateway.ranges import ByteRange
from quickthaw.gateway.storage import Expiry, UploadRefused, Uploads, open_blobs
from quickthaw.gateway.storage.lifecycle import Lifecycle
from quickthaw.scheduler.artifacts import Artifacts
from quickthaw.v1 import types_pb2
from quickthaw.wire.blob_store import open_blob_store
from quickthaw.wire.errors import ArtifactNotFound, Unavailable
from quickthaw.worker.artifacts import ArtifactStore
from quickthaw.worker.attempts import OutputFile
from support.fake_inference import MODEL_ID
from support.gateway_rig import a_gateway
from support.remote_servers import BUCKET, S3Server, s3_server

URL = f"s3://{BUCKET}/some/prefix"
PARTS = [b"a" * 6_000_000, b"b" * 10, b"c" * 5_300_000]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """As operators say it: the address and the credentials in the environment."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": server.endpoint,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return URL


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def test_uploads_live_and_end_in_a_bucket(bucket: str) -> None:
    now = 1_000_000.0
    blobs = open_blobs(bucket)
    expiry = Expiry(blobs, lambda: now)
    uploads = Uploads(
        blobs,
        expiry,
        bytes(32),
        file_bytes_max=10**9,
        tenant_bytes_max=10**9,
        partial_seconds=60,
        now=lambda: now,
    )
    whole = uploads.ticket("alice", "a.bin", "image/png", Lifecycle())
    data = b"".join(PARTS)
    stored = await uploads.store(whole, pieces(*PARTS))
    assert await uploads.store(whole, pieces(data)) == stored
    with pytest.raises(UploadRefused):
        await uploads.store(whole, pieces(b"other"))
    ticket = uploads.ticket("alice", "b.bin", "image/png", Lifecycle(600.0))
    tags = [
        (number, await uploads.store_part(ticket, number, pieces(part), len(part)))
        for number, part in enumerate(PARTS, start=1)
    ]
    await uploads.complete(ticket, tags)
    for file_id in (whole.file_id, ticket.file_id):
        found = await uploads.find(file_id)
        span = ByteRange(5_999_999, 6_000_012)
        got = b"".join([piece async for piece in uploads.read(found, span)])
        assert got == data[span.start : span.stop]
    now += 660
    await expiry.sweep()
    with pytest.raises(ArtifactNotFound):
        await uploads._record(ticket.file_id)
    assert (await uploads.find(whole.file_id)).size_bytes == len(data)
    assert [blob.key async for blob in blobs.under("expiry")] == []


async def test_workers_schedulers_and_gateways_share_a_bucket(bucket: str, tmp_path: Path) -> None:
    store = ArtifactStore(open_blob_store(bucket), bucket)
    file = OutputFile("0.png", "image/png", b"picture" * 100_000, 8, 8)
    made = (await store.put_all("req-s3", [file]))[0]
    artifact = types_pb2.Artifact(
        uri=made.uri, name=made.name, size_bytes=made.size_bytes, sha256=made.sha256
    )
    artifacts = Artifacts(open_blob_store(bucket))
    read = b"".join([piece async for piece in artifacts.read(artifact)])
    assert read == file.data
    direct = await obstore.head_async(S3Store(BUCKET), f"some/prefix/{made.uri}")
    assert direct["size"] == len(file.data)
    await artifacts.delete_all("req-s3")
    with pytest.raises(ArtifactNotFound):
        _ = [piece async for piece in artifacts.read(artifact)]


async def test_a_gateway_serves_and_takes_files_of_a_bucket(bucket: str, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(picture, "PNG")
    async with a_gateway(tmp_path, blob_store=bucket) as rig:
        sent = await rig.http.post("/cdn/files/upload", content=picture.getvalue())
        url = sent.json()["access_url"]
        part = await rig.nobody.get(url, headers={"range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, b"PNG")
        arguments = {"prompt": "x", "image_url": url}
        assert (await rig.http.post(f"/run/{MODEL_ID}", json=arguments)).status_code == 200
        left = list(rig.platform.requests.values())[-1].submitted.input_json
        key = left.partition("blob:")[2].partition('"')[0]
    # A worker reads in a thread of its own.
    read = await asyncio.to_thread(ArtifactStore(open_blob_store(bucket), bucket).read_input, key)
    assert read == picture.getvalue()


async def test_a_bucket_that_is_not_there_is_said_to_be_unavailable(bucket: str) -> None:
    blobs = open_blobs("s3://no-such-bucket")
    with pytest.raises(Unavailable, match="its bucket or folder is gone"):
        await blobs.write("uploads/x", b"x")
