"""Outputs in the blob store: whole or not at all, and errors that name the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from quickthaw.wire.blob_store import open_blob_store
from quickthaw.wire.errors import SettingsInvalid, StorageFull, StoreUnavailable
from quickthaw.worker.artifacts import ArtifactStore
from quickthaw.worker.attempts import OutputFile
from support.full_disk import no_file_grows_beyond

SMALL = OutputFile("small.png", "image/png", b"x" * 100, 8, 8)
LARGE = OutputFile("large.png", "image/png", b"x" * 100_000, 8, 8)


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def a_store(folder: Path) -> ArtifactStore:
    return ArtifactStore(open_blob_store(str(folder)), str(folder))


async def test_files_are_stored_under_their_request_and_described(tmp_path: Path) -> None:
    (stored,) = await a_store(tmp_path / "blobs").put_all("r1", [SMALL])
    assert stored.uri == "artifacts/r1/small.png"
    assert (tmp_path / "blobs" / stored.uri).read_bytes() == SMALL.data
    assert stored.sha256 == hashlib.sha256(SMALL.data).hexdigest()
    assert (stored.size_bytes, stored.width, stored.height) == (100, 8, 8)


async def test_a_second_attempt_replaces_the_files_of_the_first(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    await store.put_all("r1", [SMALL])
    await store.put_all("r1", [OutputFile("small.png", "image/png", b"new")])
    assert (tmp_path / "artifacts" / "r1" / "small.png").read_bytes() == b"new"


async def test_a_full_store_is_named_and_nothing_of_the_request_stays(tmp_path: Path) -> None:
    with no_file_grows_beyond(len(LARGE.data) // 2), pytest.raises(StorageFull) as failed:
        await a_store(tmp_path).put_all("r1", [SMALL, LARGE])
    assert str(tmp_path) in failed.value.message
    assert "large.png" in failed.value.message
    assert files_under(tmp_path) == []


async def test_a_store_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where a folder must be")
    with pytest.raises(StoreUnavailable) as failed:
        await a_store(tmp_path).put_all("r1", [SMALL])
    assert str(tmp_path) in failed.value.message
    assert "\n" not in failed.value.message


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    open_blob_store(f"file://{tmp_path}/with%20space")
    assert (tmp_path / "with space").is_dir()


@pytest.mark.parametrize("url", ["gopher://x/y", "/proc/nowhere/blobs"])
def test_a_store_that_cannot_be_opened_is_refused_by_flag(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="--blob-store"):
        open_blob_store(url)
