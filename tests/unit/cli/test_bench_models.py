"""Synthetic models: the shapes of the real ones, at any size, and loadable."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from quickthaw.cli.bench.catalogue import MODELS
from quickthaw.cli.bench.choosing import Choice, choose
from quickthaw.cli.bench.fitting import available_memory_bytes, nbytes_max
from quickthaw.cli.bench.layouts import diffusers_folder
from quickthaw.cli.bench.making import make
from quickthaw.cli.bench.measuring import fits
from quickthaw.cli.bench.options import Options
from quickthaw.cli.bench.subject import differences, open_subject
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import NotFound
from support.snapshots import a_loader, tensors_of

MIB = 1 << 20
GIGABYTES = {"sd15": 2.13, "sdxl": 6.94, "flux": 33.9, "flux-fp8": 17.1, "svd": 4.51}
"""What the published weights take, in their dtypes, safety checkers left out."""


def _tensors(name: str, width: float) -> int:
    return sum(
        len([*module.parameters(), *module.buffers()])
        for _, module in MODELS[name].modules(width).values()
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_size_of_the_real_one(name: str) -> None:
    assert MODELS[name].nbytes(1.0) / 1e9 == pytest.approx(GIGABYTES[name], rel=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_a_narrower_model_has_as_many_tensors(name: str) -> None:
    counts = {_tensors(name, width) for width in (1 / 64, 0.3, 1.0)}
    assert len(counts) == 1


def test_the_widest_model_that_fits_is_found() -> None:
    model = MODELS["sdxl"]
    width = model.width_for(10**9)
    assert model.nbytes(width) <= 10**9 < model.nbytes(width + 1 / 32)
    assert model.width_for(10**12) == 1.0


@pytest.mark.parametrize("name", ["sd15", "flux", "flux-fp8", "svd"])
def test_a_synthetic_model_loads_with_exactly_the_bytes_that_were_written(
    name: str, tmp_path: Path
) -> None:
    store = SnapshotStore(tmp_path / "store")
    digest = make(MODELS[name], 1 / 64, store, seed=3, on_bytes=lambda _: None)
    assert verify(tmp_path / "store", digest).intact
    subject = open_subject(store, digest, tmp_path, name=name, title=name)
    assert subject.eight_bit == (name == "flux-fp8")
    room = subject.nbytes + 32 * MIB
    with a_loader(store, vram_bytes=room, slab_bytes=room) as loader, loader.load(digest) as model:
        for part, expected in subject.expected.items():
            tensors = tensors_of(getattr(model.pipeline, part))
            assert differences(expected, tensors) == []
            assert all(bool(torch.isfinite(each.float()).all()) for each in tensors.values()), (
                "numbers that no model has would make pictures that no model draws"
            )


def test_the_same_seed_makes_the_same_model(tmp_path: Path) -> None:
    def digest(number: int, seed: int) -> str:
        store = SnapshotStore(tmp_path / str(number))
        return make(MODELS["sd15"], 1 / 64, store, seed=seed, on_bytes=lambda _: None)

    assert digest(1, seed=5) == digest(2, seed=5) != digest(3, seed=6)


def test_the_diffusers_layout_is_read_by_diffusers(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    store = SnapshotStore(tmp_path / "store")
    digest = make(MODELS["sd15"], 1 / 64, store, seed=0, on_bytes=lambda _: None)
    subject = open_subject(store, digest, tmp_path, name="sd15", title="SD 1.5")
    for sharded in (False, True):
        folder = tmp_path / f"sharded-{sharded}"
        diffusers_folder(store, digest, subject.files, folder, sharded=sharded)
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.float16, safety_checker=None
        )
        expected = subject.expected["unet"]
        assert differences(expected, pipeline.unet.state_dict()) == []
        shards = list((folder / "unet").glob("*-of-*.safetensors"))
        assert len(shards) == (4 if sharded else 0)


def _chosen(snapshot: Path | str, folder: Path) -> Choice:
    return choose(Options(model="sdxl", folder=folder, peers=(), snapshot=str(snapshot)))


def test_a_model_of_ones_own_is_found_by_folder_and_by_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKTHAW_DATA_DIR", str(tmp_path / "data"))
    store = SnapshotStore(tmp_path / "data" / "snapshots")
    digest = make(MODELS["sd15"], 1 / 64, store, seed=0, on_bytes=lambda _: None)
    for named in (store.root, digest, digest[:10]):
        choice = _chosen(named, tmp_path)
        assert (choice.digest, choice.name, choice.scale) == (digest, "own", 1.0)
        assert choice.nbytes == store.open(digest).manifest.weight_bytes
    with pytest.raises(NotFound, match="no snapshot in"):
        _chosen("0" * 64, tmp_path)


def test_a_diffusers_folder_is_packed_first(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "store")
    digest = make(MODELS["sd15"], 1 / 64, store, seed=0, on_bytes=lambda _: None)
    subject = open_subject(store, digest, tmp_path, name="sd15", title="SD 1.5")
    diffusers_folder(store, digest, subject.files, tmp_path / "mine", sharded=False)
    choice = _chosen(tmp_path / "mine", tmp_path)
    assert choice.title == "mine"
    packed = choice.make(SnapshotStore(tmp_path / "packed"), lambda _: None)
    theirs = {each.digest for each in store.open(digest).manifest.components}
    ours = SnapshotStore(tmp_path / "packed").open(packed).manifest
    assert {each.name for each in ours.components} == {"text_encoder", "unet", "vae"}
    assert {each.digest for each in ours.components} & theirs


def test_memory_of_a_container_counts_where_it_is_less(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2000000 kB\nMemAvailable: 1000000 kB\n")
    assert available_memory_bytes(meminfo, tmp_path) == 1_024_000_000
    (tmp_path / "memory.max").write_text("500000000\n")
    (tmp_path / "memory.current").write_text("100000000\n")
    assert available_memory_bytes(meminfo, tmp_path) == 400_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(meminfo, tmp_path) == 1_024_000_000


def test_what_limits_the_size_is_named() -> None:
    plenty = 10**12
    small = nbytes_max(disk_bytes=10**10, memory_bytes=plenty, gpu_bytes=None, forms=8, lanes=10)
    assert min(small, key=lambda name: small[name]) == "disk"
    assert small["disk"] * 8 < 10**10
    tight = nbytes_max(disk_bytes=plenty, memory_bytes=plenty, gpu_bytes=10**9, forms=8, lanes=10)
    assert tight["GPU memory"] == 0


def test_without_peers_there_is_room_for_a_larger_model() -> None:
    """Flux with its T5, 34 GB, on a machine with one GPU of 80 GB and 128 GiB of memory."""
    room = partial(
        nbytes_max,
        disk_bytes=60 * 10**9,
        memory_bytes=125 << 30,
        gpu_bytes=83 * 10**9,
        forms=1,
        lanes=3,
    )
    assert min(room(alone=True).values()) > 34 * 10**9
    assert min(room(alone=False).values()) < 34 * 10**9
    part = partial(room, memory_bytes=100 << 30)
    assert min(part(alone=True).values()) < 34 * 10**9
    assert min(part(alone=True, pinned=True).values()) > 34 * 10**9, "nothing is read meanwhile"


def test_a_round_that_would_end_too_late_does_not_begin_but_one_is_measured() -> None:
    late = partial(fits, elapsed=90.0, longest=20.0, limit=100.0)
    assert late(0)
    assert late(1)
    assert not late(2)
    assert fits(2, 80.0, 20.0, 100.0)
    assert fits(7, 1e6, 20.0, None)
