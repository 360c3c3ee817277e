from __future__ import annotations

import subprocess
import sys

import pytest

from quickthaw.snapshot import SnapshotStore, describe, locate
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import NotFound, SnapshotCorrupt
from support.snapshots import flip_bit


def test_an_intact_snapshot_has_no_findings(store: SnapshotStore, digests: dict[str, str]) -> None:
    told: list[int] = []
    report = verify(store.root, digests["flux"], on_bytes=told.append)
    assert report.intact
    assert report.checked_bytes == sum(told)
    assert report.checked_bytes > store.open(digests["flux"]).manifest.weight_bytes


def test_everything_wrong_is_reported_at_once(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    manifest = damaged.open(digests["sd"]).manifest
    text, unet, vae = manifest.components
    flip_bit(damaged.component_path(text.digest), 100)
    flip_bit(damaged.component_path(unet.digest), unet.data_start + 77)
    damaged.component_path(vae.digest).unlink()
    (blob, *_) = manifest.processors[0].files.values()
    flip_bit(damaged.blob_path(blob.digest), 3)
    report = verify(damaged.root, digests["sd"])
    assert not report.intact
    found = {(each.part.split("/")[0], each.problem) for each in report.findings}
    assert {
        ("text_encoder", "header_digest"),
        ("unet", "corrupt"),
        ("unet", "digest"),
        ("vae", "missing"),
        ("tokenizer", "snapshot_corrupt"),
    } <= found
    (block,) = [each for each in report.findings if each.problem == "corrupt"]
    assert (block.block, block.offset) == (0, unet.data_start)


@pytest.mark.parametrize("change", [-5, 7])
def test_a_file_of_another_length_is_reported(
    change: int, damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    part = damaged.open(digests["sd"]).manifest.component("vae")
    path = damaged.component_path(part.digest)
    with path.open("r+b") as file:
        file.truncate(part.file_bytes + change)
    problems = {each.problem for each in verify(damaged.root, digests["sd"]).findings}
    assert ("truncated" if change < 0 else "trailing_bytes") in problems
    assert "digest" in problems


def test_a_padding_bit_counts(damaged: SnapshotStore, digests: dict[str, str]) -> None:
    part = damaged.open(digests["sd"]).manifest.component("vae")
    flip_bit(damaged.component_path(part.digest), part.data_start - 1)
    assert not verify(damaged.root, digests["sd"]).intact


def test_a_changed_manifest_raises(damaged: SnapshotStore, digests: dict[str, str]) -> None:
    flip_bit(damaged.manifest_path(digests["sd"]), 5)
    with pytest.raises(SnapshotCorrupt):
        verify(damaged.root, digests["sd"])


def test_a_snapshot_is_found_by_its_folder_its_manifest_or_a_short_digest(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    digest = digests["sdxl"]
    folder = store.root / "snapshots" / digest
    for path, short in ((folder, None), (folder / "manifest.json", None), (store.root, digest[:9])):
        assert locate(path, short).digest == digest
    with pytest.raises(NotFound):
        locate(store.root)
    with pytest.raises(NotFound, match="no snapshot in"):
        locate(store.root, "zz")


def test_describing_tells_sizes_parts_and_defaults(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    found = describe(store.root, digests["flux"])
    assert found["family"] == "flux"
    assert [part["name"] for part in found["components"]] == [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae",
    ]
    assert found["components"][1]["parameters"] == 17_152
    assert found["processors"]["tokenizer"]["class"] == "transformers.CLIPTokenizer"
    assert found["defaults"]["image_size"] == {"width": 32, "height": 32}


def test_inspecting_and_verifying_need_no_tensor_library(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    script = (
        "import sys; from quickthaw.snapshot import describe; "
        "from quickthaw.snapshot.verify import verify; "
        "describe(*sys.argv[1:]); assert verify(*sys.argv[1:]).intact; "
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers'} & sys.modules.keys(); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script, str(store.root), digests["sd"]], check=True)
