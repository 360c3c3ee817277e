"""Snapshots that somebody else packed, and packs that go on behind an interrupted one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quickthaw.snapshot import Snapshot, SnapshotStore
from quickthaw.snapshot.finished import Finished
from quickthaw.snapshot.pack import PackProgress, pack
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import SnapshotCorrupt, SnapshotInvalid
from support.loras import lora
from support.tiny_models import tiny_sd


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a base, and a LoRA file of it."""
    folder = tmp_path_factory.mktemp("packed")
    base = tiny_sd(0)
    pack(base, folder / "ours")
    lora(folder / "style.safetensors", base)
    return folder


@pytest.fixture
def ours(packed: Path, tmp_path: Path) -> Snapshot:
    shutil.copytree(packed / "ours", tmp_path / "ours")
    store = SnapshotStore(tmp_path / "ours")
    return store.open(store.only())


@pytest.fixture
def theirs(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "theirs")


def files_of(store: SnapshotStore) -> dict[str, int]:
    """Their inodes; another one is another file."""
    found = [path for path in store.root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(store.root)): path.stat().st_ino for path in found}


@pytest.mark.parametrize("what", ["a LoRA", "a fine-tune"])
def test_what_is_packed_elsewhere_over_a_base_is_what_is_packed_beside_it(
    packed: Path, ours: Snapshot, theirs: SnapshotStore, what: str, tmp_path: Path
) -> None:
    source = packed / "style.safetensors" if what == "a LoRA" else tiny_sd(1)
    digest = pack(source, theirs, base=ours)
    assert not any(part.digest in str(files_of(theirs)) for part in ours.manifest.components)
    store = SnapshotStore(ours.store.root)
    before = files_of(store)
    adopted = store.adopt(theirs.root, digest, ours)
    assert verify(store.root, adopted.digest).intact
    assert before.items() <= files_of(store).items(), "what was ours is left alone"
    shutil.copytree(packed / "ours", tmp_path / "beside")
    assert pack(source, tmp_path / "beside", base=ours.digest) == digest


def test_who_only_knows_a_files_digest_gets_nothing_of_it(
    ours: Snapshot, theirs: SnapshotStore
) -> None:
    """Their manifest names all of ours, as if it were the base of a thing of theirs."""
    store = SnapshotStore(ours.store.root)
    digest = pack(tiny_sd(2), store)
    manifest = store.manifest_path(digest)
    shutil.copytree(manifest.parent, theirs.root / "snapshots" / digest)
    for base in (None, ours):
        with pytest.raises(SnapshotInvalid, match="missing"):
            store.adopt(theirs.root, digest, base)
    for file in store.open(digest).manifest.files():
        (theirs.root / file.path).parent.mkdir(exist_ok=True)
        (theirs.root / file.path).write_bytes(b"")
    with pytest.raises(SnapshotCorrupt, match="does not match"):
        store.adopt(theirs.root, digest, None)


@pytest.mark.parametrize("link", ["snapshots", "components"])
def test_links_out_of_a_strangers_store_are_not_followed(
    packed: Path, ours: Snapshot, theirs: SnapshotStore, link: str, tmp_path: Path
) -> None:
    digest = pack(packed / "style.safetensors", theirs, base=ours)
    (theirs.root / link).rename(tmp_path / "moved")
    (theirs.root / link).symlink_to(tmp_path / "moved")
    with pytest.raises(SnapshotInvalid, match="link"):
        SnapshotStore(ours.store.root).adopt(theirs.root, digest, ours)


def interrupted(theirs: SnapshotStore, base: Snapshot | None) -> tuple[Path, dict[str, int]]:
    """Ended with the first component; where that is remembered, and the files then."""
    memory = theirs.root / "finished.json"

    def end(done: PackProgress) -> None:
        if memory.exists():
            raise Interrupted

    with pytest.raises(Interrupted):
        pack(tiny_sd(1), theirs, base=base, on_progress=end, finished=Finished(theirs, memory))
    return memory, {name: at for name, at in files_of(theirs).items() if "components" in name}


@pytest.mark.parametrize("over_a_base", [False, True])
def test_a_pack_that_was_interrupted_goes_on_behind_what_it_had_finished(
    ours: Snapshot, theirs: SnapshotStore, over_a_base: bool
) -> None:
    base = ours if over_a_base else None
    memory, before = interrupted(theirs, base)
    assert len(before) == 1
    told: list[PackProgress] = []
    digest = pack(
        tiny_sd(1), theirs, base=base, on_progress=told.append, finished=Finished(theirs, memory)
    )
    assert before.items() <= files_of(theirs).items(), "it was not written again"
    assert told[-1].packed_bytes == told[-1].total_bytes
    assert pack(tiny_sd(1), theirs.root.with_name("anew"), base=base) == digest


def test_what_was_finished_and_is_damaged_is_written_again(theirs: SnapshotStore) -> None:
    memory, before = interrupted(theirs, None)
    (name,) = before
    whole = (theirs.root / name).read_bytes()
    (theirs.root / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    digest = pack(tiny_sd(1), theirs, finished=Finished(theirs, memory))
    assert (theirs.root / name).read_bytes() == whole
    assert verify(theirs.root, digest).intact


@pytest.mark.parametrize("text", ["", "[]", '{"unet": 1}', '{"text_encoder": {"written": {}}}'])
def test_a_memory_that_is_nonsense_is_none(theirs: SnapshotStore, text: str) -> None:
    memory = theirs.root.with_name("finished.json")
    memory.write_text(text)
    digest = pack(tiny_sd(1), theirs, finished=Finished(theirs, memory))
    assert verify(theirs.root, digest).intact
