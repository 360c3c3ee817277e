"""The store: sharing, moving in, cleaning up, and what crashes and full disks leave."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import (
    FailedPrecondition,
    NotFound,
    SnapshotCorrupt,
    SnapshotInvalid,
    StorageFull,
)
from support.full_disk import no_file_grows_beyond
from support.snapshots import BUILDERS, MIB, flip_bit


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_shared_components_are_stored_once(store: SnapshotStore, digests: dict[str, str]) -> None:
    base, tuned = (store.open(digests[name]).manifest for name in ("sd", "sd-tuned"))
    same = {part.name: part.digest == tuned.component(part.name).digest for part in base.components}
    assert same == {"text_encoder": True, "unet": False, "vae": True}
    wanted = {part.digest for each in store for part in store.open(each).manifest.components}
    assert {path.stem for path in (store.root / "components").iterdir()} == wanted


def test_a_store_lists_complete_snapshots_only(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    (damaged.root / "snapshots" / ("0" * 64)).mkdir()
    (damaged.root / "snapshots" / "notes").mkdir()
    assert list(damaged) == sorted(digests.values())
    assert list(SnapshotStore(damaged.root / "nowhere")) == []


def test_a_lone_snapshot_is_a_store_of_one(tmp_path: Path) -> None:
    digest = pack(BUILDERS["sd"](3), tmp_path)
    assert SnapshotStore(tmp_path).only() == digest


def test_asking_for_the_only_one_of_several_is_refused(store: SnapshotStore) -> None:
    with pytest.raises(NotFound, match="4 snapshots"):
        store.only()


def test_importing_keeps_digests_and_copies_nothing_twice(
    store: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    target = SnapshotStore(tmp_path)
    assert set(target.import_(store.root)) == set(digests.values())
    before = {path: path.stat().st_ino for path in (tmp_path / "components").iterdir()}
    target.import_(store.root)
    assert before == {path: path.stat().st_ino for path in (tmp_path / "components").iterdir()}
    assert all(verify(tmp_path, digest).intact for digest in digests.values())


def test_importing_again_mends_what_was_damaged(
    store: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    other = SnapshotStore(tmp_path / "other")
    other.import_(store.root, digests["sd"])
    part = other.open(digests["sd"]).manifest.components[0]
    flip_bit(other.component_path(part.digest), part.data_start)
    assert not verify(other.root, digests["sd"]).intact
    other.import_(store.root, digests["sd"])
    assert verify(other.root, digests["sd"]).intact


def test_importing_damaged_content_is_refused_and_leaves_nothing(
    damaged: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    part = damaged.open(digests["sd"]).manifest.component("vae")
    flip_bit(damaged.component_path(part.digest), part.data_start + 9)
    for digest in set(digests.values()) - {digests["sd"]}:
        damaged.remove(digest)
    target = SnapshotStore(tmp_path / "target")
    with pytest.raises(SnapshotCorrupt, match="does not match its name"):
        target.import_(damaged.root)
    assert list(target) == []
    assert not target.component_path(part.digest).exists()
    target.gc()
    assert files_of(target.root) == {".lock"}


def test_one_snapshot_of_several_can_be_imported(
    store: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    target = SnapshotStore(tmp_path)
    assert target.import_(store.root, digests["sd"]) == (digests["sd"],)
    assert list(target) == [digests["sd"]]
    assert len(list((tmp_path / "components").iterdir())) == 3
    with pytest.raises(NotFound):
        target.import_(store.root, "0" * 64)


def test_importing_from_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotInvalid, match="holds no snapshot"):
        SnapshotStore(tmp_path / "a").import_(tmp_path / "b")


@pytest.mark.parametrize("folder", ["components", "blobs", "snapshots"])
def test_a_linked_folder_is_refused(
    folder: str, damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    place = damaged.root / folder
    place.rename(damaged.root / "elsewhere")
    place.symlink_to(damaged.root / "elsewhere")
    with pytest.raises(SnapshotInvalid, match="symbolic link"):
        damaged.open(digests["sd"])


def test_gc_removes_only_what_no_snapshot_needs(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    assert damaged.gc().files == 0
    unet = damaged.open(digests["sd-tuned"]).manifest.component("unet")
    damaged.remove(digests["sd-tuned"])
    collected = damaged.gc()
    assert collected.files == 1
    assert collected.bytes == unet.file_bytes
    assert not damaged.component_path(unet.digest).exists()
    assert verify(damaged.root, digests["sd"]).intact
    with pytest.raises(NotFound):
        damaged.remove(digests["sd-tuned"])


def test_gc_refuses_to_run_beside_writers(damaged: SnapshotStore) -> None:
    with damaged.writing(), damaged.writing(), pytest.raises(FailedPrecondition, match="repeat"):
        damaged.gc()
    damaged.gc()


def test_a_writer_waits_for_the_end_of_a_gc_but_not_for_ever(
    damaged: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (damaged.root / ".lock").open("rb") as collecting:
        fcntl.flock(collecting, fcntl.LOCK_EX)
        monkeypatch.setattr(
            "quickthaw.snapshot.store.time.sleep",
            lambda _seconds: fcntl.flock(collecting, fcntl.LOCK_UN),
        )
        with damaged.writing():
            pass
        fcntl.flock(collecting, fcntl.LOCK_EX)
        monkeypatch.setattr("quickthaw.snapshot.store.GC_SECONDS_MAX", 0.0)
        with pytest.raises(FailedPrecondition, match="repeat"), damaged.writing():
            pass


def test_a_crash_in_the_middle_of_packing_leaves_the_store_clean(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    before = files_of(damaged.root)
    script = """
        import os, signal, sys
        from quickthaw.snapshot.pack import pack
        from support.tiny_models import tiny_sd

        def die(progress):
            if progress.component == "unet":
                os.kill(os.getpid(), signal.SIGKILL)

        pack(tiny_sd(99), sys.argv[1], on_progress=die)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(damaged.root)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(damaged) == set(digests.values())
    left = files_of(damaged.root) - before
    assert any(name.startswith("tmp/") for name in left), "it died while writing"
    damaged.gc()
    assert files_of(damaged.root) == before
    assert pack(BUILDERS["sd"](99), damaged) in damaged


def test_a_full_disk_is_storage_full_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    pipeline = BUILDERS["sd"](5)
    with (
        no_file_grows_beyond(MIB // 4),
        pytest.raises(StorageFull, match="free some space") as caught,
    ):
        pack(pipeline, tmp_path)
    assert str(tmp_path) in caught.value.metadata["path"]
    store = SnapshotStore(tmp_path)
    assert list(store) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    digest = pack(pipeline, store)
    assert verify(tmp_path, digest).intact


def test_a_full_disk_while_importing_is_storage_full(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        SnapshotStore(tmp_path).import_(store.root)
    assert list(SnapshotStore(tmp_path)) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_store_works_from_a_copy_of_its_folder(
    store: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(store.root, tmp_path / "copy", ignore=shutil.ignore_patterns("tmp", ".lock"))
    assert verify(tmp_path / "copy", digests["flux"]).intact
