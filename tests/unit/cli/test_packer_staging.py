"""What one try of a deployment leaves for the next, and what is not taken for whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from quickthaw.cli.packer.staging import Staging, prune
from quickthaw.cli.up.bundled import find_snapshot
from quickthaw.snapshot import SnapshotStore
from quickthaw.wire.errors import ResourceExhausted

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(tmp_path / "dep_1")
    staging.prepare()
    (staging.files / "unet").mkdir()
    (staging.files / "unet" / "x").write_bytes(CONTENT)
    staging.note("unet/x", "id", DIGEST)
    return staging


def test_what_was_fetched_is_there_for_the_next_try(staging: Staging) -> None:
    staging.note("other", "id", DIGEST)
    again = Staging(staging.root)
    again.prepare()
    assert again.holds("unet/x", "id")
    assert not again.holds("other", "id"), "the file is not"


def test_another_upload_or_content_is_fetched_anew(staging: Staging) -> None:
    assert not staging.holds("unet/x", "another")
    (staging.files / "unet" / "x").write_bytes(b"Weights")
    assert not staging.holds("unet/x", "id")
    (staging.root / "fetched").write_text("[")
    assert not staging.holds("unet/x", "id")


def test_what_packs_finds_nothing_at_home_that_an_earlier_try_left(staging: Staging) -> None:
    (staging.home / "torch.py").write_text("import os")
    staging.prepare()
    assert not list(staging.home.iterdir())


def test_what_was_packed_counts_if_all_of_it_is_still_there(
    staging: Staging, tmp_path: Path
) -> None:
    bundled = find_snapshot()
    assert bundled is not None
    store = SnapshotStore(shutil.copytree(bundled, tmp_path / "store"))
    assert staging.packed(store) is None
    staging.keep(store.only())
    assert sorted(path.name for path in staging.root.iterdir()) == ["fetched", "packed"]
    found = staging.packed(store)
    assert found is not None
    assert found.digest == store.only()
    (store.root / found.manifest.files()[0].path).unlink()
    assert staging.packed(store) is None
    (staging.root / "packed").write_text("../../elsewhere")
    assert staging.packed(store) is None


def test_a_base_is_a_second_name_for_its_files(staging: Staging) -> None:
    bundled = find_snapshot()
    assert bundled is not None
    # Links need one file system, and modes that allow them; copies are as good.
    base = SnapshotStore(bundled).open(SnapshotStore(bundled).only())
    staging.bring_base(base)
    assert SnapshotStore(staging.base).open(base.digest).manifest == base.manifest


def test_what_writes_without_end_is_stopped(staging: Staging) -> None:
    (staging.home / "x").write_bytes(os.urandom(100_000))
    staging.check_room(1 << 20)
    with pytest.raises(ResourceExhausted, match="has written"):
        staging.check_room(50_000)


def test_folders_that_nobody_went_on_with_go(tmp_path: Path) -> None:
    for name, at in (("dep_old", 1_000.0), ("dep_new", 2_000.0)):
        (tmp_path / name / "files").mkdir(parents=True)
        os.utime(tmp_path / name, (at, at))
    (tmp_path / "packer.lock").touch()
    prune(tmp_path, now=2_600.0, keep_seconds=900.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dep_new", "packer.lock"]
