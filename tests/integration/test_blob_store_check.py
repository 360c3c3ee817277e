"""A process that keeps files tries its store before it says that it is ready."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import obstore
import pytest

from quickthaw.wire import blob_store
from quickthaw.wire.blob_store import check_blob_store, open_blob_store
from quickthaw.wire.errors import SettingsInvalid
from support.gateway_rig import a_gateway
from support.remote_servers import BUCKET, S3Server, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """The address of a server that says this whatever it is asked."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answered, "127.0.0.1", 0)
    async with server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())


def refusing(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code></Error>"
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return (head + body).encode()


async def test_a_store_that_works_is_left_as_it_was_but_for_its_mark(
    tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", server.endpoint)
    for url in (f"s3://{BUCKET}/some/prefix", str(tmp_path / "new"), f"file://{tmp_path}/url"):
        await check_blob_store(url)
        (left,) = obstore.list(open_blob_store(url)).collect()
        assert left["path"] == "probes/store-id"


async def test_whoever_is_given_one_store_knows_it_by_one_mark(
    tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", server.endpoint)
    bucket, folder = f"s3://{BUCKET}/marked", str(tmp_path / "a")
    urls = (bucket, folder, str(tmp_path / "b"), bucket, f"file://{folder}")
    marks = [await check_blob_store(url) for url in urls]
    assert marks[3:] == marks[:2]
    assert len({*marks, ""}) == 4


async def test_a_bucket_that_is_not_there_is_refused_with_what_the_store_said(
    tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", server.endpoint)
    url = "s3://no-such-bucket/x"
    with pytest.raises(SettingsInvalid) as refused:
        async with a_gateway(tmp_path, blob_store=url):
            pass
    told = refused.value.message
    assert f"--blob-store '{url}'" in told
    assert "NoSuchBucket" in told
    assert "make the bucket" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        ("403 Forbidden", "AccessDenied", "403 Forbidden.*AccessDenied"),
        ("301 Moved Permanently", "PermanentRedirect", "incorrectly configured region"),
    ],
)
async def test_a_bucket_that_is_somebody_elses_is_refused(
    monkeypatch: pytest.MonkeyPatch, status: str, code: str, told: str
) -> None:
    async with answering(refusing(status, code)) as address:
        monkeypatch.setenv("AWS_ENDPOINT", address)
        with pytest.raises(SettingsInvalid, match=told):
            await check_blob_store("s3://theirs")


async def test_an_address_where_nothing_listens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SettingsInvalid, match=r"127\.0\.0\.1:1.*AWS_ENDPOINT"):
        await check_blob_store("s3://bucket")


async def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "probes").write_text("a file where a folder must be")
    with pytest.raises(SettingsInvalid, match="give a folder that this process may write to"):
        await check_blob_store(str(tmp_path))


async def test_a_store_that_has_a_bad_hour_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(refusing("503 Slow Down", "SlowDown")) as address:
        monkeypatch.setenv("AWS_ENDPOINT", address)
        assert await check_blob_store("s3://bucket") == ""
    assert "s3://bucket does not work for now" in caplog.text


async def test_a_slow_store_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blob_store, "CHECK_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        address = "http://{}:{}".format(*never_answers.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT", address)
        assert await check_blob_store("s3://bucket") == ""
    assert "s3://bucket took no file in 0.1 s" in caplog.text


async def test_a_full_disk_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise obstore.exceptions.GenericError("Unable to write: No space left (os error 28)")

    monkeypatch.setattr(obstore, "put", full)
    await check_blob_store(str(tmp_path))
    assert "does not work for now" in caplog.text
