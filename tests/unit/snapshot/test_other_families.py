"""Families of other outputs: what comes out of their snapshots is what went in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import torch

from quickthaw.snapshot import Kind, SnapshotStore, family_named
from quickthaw.snapshot.families import FAMILIES
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import SnapshotInvalid
from support.hunyuan_models import tiny_hunyuan
from support.other_models import make, tiny_audio, tiny_ltx, tiny_sd3, tiny_svd, tiny_wan
from support.snapshots import a_loader, tensors_of

BUILDERS: dict[str, Callable[[int], Any]] = {
    "sd3": tiny_sd3,
    "svd": tiny_svd,
    "wan": tiny_wan,
    "ltx": tiny_ltx,
    "hunyuan_video": tiny_hunyuan,
    "stable_audio": tiny_audio,
}

pytestmark = [
    # diffusers' own business, both of them.
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize("family", BUILDERS)
def test_a_loaded_pipeline_makes_what_the_original_makes(family: str, tmp_path: Path) -> None:
    original = BUILDERS[family](0)
    store = SnapshotStore(tmp_path)
    digest = pack(original, store)
    with a_loader(store) as loader, loader.load(digest) as loaded:
        assert loaded.manifest.family == family
        for part in loaded.manifest.components:
            ours, theirs = (
                tensors_of(getattr(each, part.name)) for each in (loaded.pipeline, original)
            )
            assert ours.keys() == theirs.keys()
            for name, tensor in theirs.items():
                assert torch.equal(ours[name], tensor), (part.name, name)
        made = make(loaded.pipeline)
        assert torch.isfinite(made).all()
        assert torch.equal(made, make(original))
        assert not torch.equal(made, make(BUILDERS[family](1)))


@pytest.mark.parametrize("family", BUILDERS)
def test_a_folder_packs_to_the_snapshot_of_its_pipeline(family: str, tmp_path: Path) -> None:
    original = BUILDERS[family](0)
    original.save_pretrained(tmp_path / "folder")
    store = SnapshotStore(tmp_path / "store")
    packed, live = (
        store.open(pack(each, store)).manifest for each in (tmp_path / "folder", original)
    )
    assert packed.components == live.components
    assert packed.schedulers == live.schedulers


@pytest.mark.parametrize(
    ("family", "least"),
    [
        ("sd3", {"prompt": "a"}),
        ("svd", {"image_url": "https://example.org/a.png"}),
        ("wan", {"prompt": "a"}),
        ("ltx", {"prompt": "a"}),
        ("hunyuan_video", {"prompt": "a"}),
        ("stable_audio", {"prompt": "rain", "seconds_total": 4.5}),
    ],
)
def test_the_input_schema_says_what_the_family_takes(
    family: str, least: dict[str, object], tmp_path: Path
) -> None:
    store = SnapshotStore(tmp_path)
    manifest = store.open(pack(BUILDERS[family](0), store)).manifest
    check = jsonschema_rs.validator_for(dict(manifest.input_schema))
    assert check.is_valid(least)
    assert check.is_valid({**least, **manifest.defaults})
    assert not check.is_valid({})
    assert not check.is_valid({**least, "surprise": 1})
    assert manifest.working_set_bytes > 0
    assert (manifest.preview is None) == (family == "stable_audio")


def test_a_required_input_has_no_default(tmp_path: Path) -> None:
    with pytest.raises(SnapshotInvalid, match=r"defaults\.image_url"):
        pack(tiny_svd(0), tmp_path, defaults={"image_url": "https://example.org/a.png"})


def test_each_family_loads_what_a_request_needs_first_before_the_rest() -> None:
    for family in FAMILIES.values():
        order = list(family.components)
        encoders = [
            name
            for name, kind in family.components.items()
            if kind in (Kind.TEXT_ENCODER, Kind.IMAGE_ENCODER)
        ]
        assert all(order.index(name) < order.index(family.denoiser) for name in encoders)
        assert family_named(family.name) is family
