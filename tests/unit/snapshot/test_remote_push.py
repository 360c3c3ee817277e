"""Pushing to buckets and folders, listing them, pulling from them; against an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.remote import RemoteSettings, open_remote, open_writable
from quickthaw.snapshot.remote.pull import PullProgress, pull
from quickthaw.snapshot.remote.push import list_snapshots, push
from quickthaw.wire.errors import (
    NotFound,
    PermissionDenied,
    QuickthawError,
    SettingsInvalid,
    SnapshotCorrupt,
    StorageFull,
    StoreUnavailable,
)
from support.full_disk import no_file_grows_beyond
from support.large_snapshots import MIB, a_large_snapshot, files_of, manifest_of
from support.remote_servers import BUCKET, Faults, S3Server, WebServer, s3_server
from support.snapshots import flip_bit

SECRET = "a-secret-that-must-not-show"
SIZES = (5 * MIB + 777, 21 * MIB + 3)


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def settings(bucket: S3Server, monkeypatch: pytest.MonkeyPatch) -> RemoteSettings:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    environment = {"AWS_ENDPOINT_URL": bucket.endpoint, "AWS_REGION": "us-east-1"}
    return RemoteSettings(
        connect_seconds=2,
        read_seconds=5,
        retries=1,
        backoff_seconds=0.001,
        parallel=4,
        range_bytes=2 * BLOCK_BYTES,
    ).from_environment(environment)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[SnapshotStore, str]:
    root = tmp_path_factory.mktemp("here")
    return SnapshotStore(root), a_large_snapshot(root, *SIZES)


def test_what_was_pushed_to_a_bucket_comes_back_the_same(
    here: tuple[SnapshotStore, str], settings: RemoteSettings, tmp_path: Path
) -> None:
    store, digest = here
    url = f"s3://{BUCKET}/round/trip"
    told: list[PullProgress] = []
    pushed = push(store, digest, open_writable(url, settings), on_progress=told.append)
    assert told[-1] == PullProgress(pushed.sent_bytes, pushed.sent_bytes)
    back = pull(SnapshotStore(tmp_path), open_remote(url, settings), digest, settings)
    assert back.fetched_bytes == pushed.sent_bytes
    assert files_of(tmp_path) == files_of(store.root)


def test_only_what_the_bucket_lacks_is_sent(
    here: tuple[SnapshotStore, str], settings: RemoteSettings, tmp_path: Path
) -> None:
    store, digest = here
    remote = open_writable(f"s3://{BUCKET}/dedupe", settings)
    first = push(store, digest, remote)
    tuned = a_large_snapshot(tmp_path, SIZES[0], 6 * MIB)
    second = push(SnapshotStore(tmp_path), tuned, remote)
    part = manifest_of(tmp_path, tuned).components[1]
    assert (first.present_bytes, second.sent_bytes) == (0, part.file_bytes)
    assert push(store, digest, remote).sent_bytes == 0
    assert [each.digest for each in list_snapshots(remote)] == sorted([digest, tuned])


def test_a_damaged_file_is_not_pushed(settings: RemoteSettings, tmp_path: Path) -> None:
    digest = a_large_snapshot(tmp_path, *SIZES)
    store = SnapshotStore(tmp_path)
    part = manifest_of(tmp_path, digest).components[1]
    flip_bit(store.component_path(part.digest), 12 * MIB)
    remote = open_writable(f"s3://{BUCKET}/damaged", settings)
    with pytest.raises(SnapshotCorrupt, match="was not pushed"):
        push(store, digest, remote)
    assert remote.size(f"components/{part.digest}.safetensors") is None
    assert list_snapshots(remote) == []


def test_a_folder_is_a_remote_like_any_other(
    here: tuple[SnapshotStore, str], tmp_path: Path
) -> None:
    store, digest = here
    for url in (str(tmp_path / "plain"), f"file://{tmp_path}/as%20url"):
        push(store, digest, open_writable(url))
        pull(SnapshotStore(tmp_path / "back"), open_remote(url), digest)
    assert files_of(tmp_path / "back") == files_of(store.root)
    assert (tmp_path / "as url" / "snapshots" / digest).is_dir()
    assert list(SnapshotStore(tmp_path / "plain")) == [digest]


def test_listing_says_what_is_wrong_with_a_manifest(
    here: tuple[SnapshotStore, str], tmp_path: Path
) -> None:
    store, digest = here
    push(store, digest, open_writable(str(tmp_path)))
    flip_bit(SnapshotStore(tmp_path).manifest_path(digest), 50)
    (listed,) = list_snapshots(open_writable(str(tmp_path)))
    assert listed.manifest is None
    assert "does not match its digest" in listed.problem


def failures(
    here: tuple[SnapshotStore, str], settings: RemoteSettings, url: str, to: Path
) -> list[QuickthawError]:
    """What reading, listing and writing raise."""
    store, digest = here
    found: list[QuickthawError] = []
    for attempt in (
        lambda: pull(SnapshotStore(to), open_remote(url, settings), digest, settings),
        lambda: list_snapshots(open_writable(url, settings)),
        lambda: push(store, digest, open_writable(url, settings)),
    ):
        with pytest.raises(QuickthawError) as raised:
            attempt()
        found.append(raised.value)
    return found


def test_a_bucket_that_is_not_there_is_named(
    here: tuple[SnapshotStore, str], settings: RemoteSettings, tmp_path: Path
) -> None:
    _store, digest = here
    for url in ("s3://no-such-bucket/x", "s3://no-such-bucket"):
        with pytest.raises(NotFound, match="no such bucket"):
            pull(SnapshotStore(tmp_path), open_remote(url, settings), digest, settings)
        with pytest.raises(NotFound, match="no such bucket"):
            list_snapshots(open_writable(url, settings))


def test_a_store_that_is_not_reachable_is_named_and_no_secret_with_it(
    here: tuple[SnapshotStore, str], settings: RemoteSettings, tmp_path: Path
) -> None:
    away = replace(settings, endpoint="http://127.0.0.1:9")
    for error in failures(here, away, f"s3://{BUCKET}/x", tmp_path):
        assert isinstance(error, StoreUnavailable)
        assert f"s3://{BUCKET}/x" in error.message
        assert SECRET not in repr(error) + error.message + repr(error.__cause__)


def test_what_is_refused_is_told_without_keys(
    here: tuple[SnapshotStore, str], settings: RemoteSettings, tmp_path: Path
) -> None:
    """S3 quotes the key's id, and the text that was signed, in the body of a refusal."""
    with WebServer(tmp_path, Faults(status=403)) as server:
        denied = replace(settings, endpoint=server.url)
        for error in failures(here, denied, f"s3://{BUCKET}/x", tmp_path / "to")[:2]:
            assert isinstance(error, PermissionDenied)
            assert "AKIATESTKEY" not in error.message
            assert "access denied" in error.message


def test_a_web_server_cannot_be_pushed_to() -> None:
    with pytest.raises(SettingsInvalid, match="only be read from"):
        open_writable("https://example.invalid/snapshots")


def test_a_full_folder_is_named(here: tuple[SnapshotStore, str], tmp_path: Path) -> None:
    store, digest = here
    remote = open_writable(str(tmp_path / "full"))
    with pytest.raises(StorageFull, match="no space left"), no_file_grows_beyond(8 * MIB):
        push(store, digest, remote)
    assert list_snapshots(remote) == []


def test_nothing_but_a_complete_push_can_be_seen(
    here: tuple[SnapshotStore, str], settings: RemoteSettings, bucket: S3Server
) -> None:
    """The manifest goes last, so a push that stops before leaves nothing to pull."""
    store, digest = here
    remote = open_writable(f"s3://{BUCKET}/partly", settings)

    class Enough(Exception):
        pass

    def stop(progress: PullProgress) -> None:
        if progress.done_bytes > SIZES[0] + MIB:
            raise Enough

    with pytest.raises(Enough):
        push(store, digest, remote, on_progress=stop)
    assert list_snapshots(remote) == []
    resumed = push(store, digest, remote)
    assert resumed.present_bytes >= SIZES[0]
    listed = obstore.list(
        S3Store(
            BUCKET,
            prefix="partly",
            endpoint=bucket.endpoint,
            client_options={"allow_http": True},
            region="us-east-1",
        )
    ).collect()
    assert {each["path"] for each in listed} == set(files_of(store.root))
