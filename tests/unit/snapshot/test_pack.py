"""Packing: from folders and files, with what must be refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import torch
from safetensors.torch import save_file

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.format import Problem
from quickthaw.snapshot.pack import PackProgress, pack
from quickthaw.wire.errors import InvalidArgument, SnapshotInvalid
from support.original_layout import original_checkpoint
from support.snapshots import BUILDERS, a_loader, draw, tensors_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BUILDERS["sd"](0).save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def problem_of(error: SnapshotInvalid) -> str:
    return error.metadata["problem"]


def test_a_folder_packs_to_the_snapshot_of_its_pipeline(
    folder: Path, store: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    packed = SnapshotStore(tmp_path / "store").open(pack(folder, tmp_path / "store")).manifest
    wanted = store.open(digests["sd"]).manifest
    assert packed.components == wanted.components
    assert packed.schedulers == wanted.schedulers


def test_a_dtype_can_be_chosen_for_a_folder(folder: Path, tmp_path: Path) -> None:
    digest = pack(folder, tmp_path / "store", dtype="bfloat16")
    manifest = SnapshotStore(tmp_path / "store").open(digest).manifest
    assert manifest.component("unet").dtypes == ("BF16",)
    with pytest.raises(InvalidArgument, match="float16, bfloat16, float32"):
        pack(folder, tmp_path / "store", dtype="int3")


def test_a_single_file_replaces_the_component_it_fits(
    folder: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    tuned = BUILDERS["sd"](1).unet.state_dict()
    file = tmp_path / "tuned.safetensors"
    save_file(tuned, file)
    store = SnapshotStore(tmp_path / "store")
    digest = pack(file, store, base=folder, family="sd", title="tuned")
    with a_loader(store) as loader, loader.load(digest) as loaded:
        assert loaded.manifest.title == "tuned"
        for name, tensor in loaded.pipeline.unet.state_dict().items():
            assert torch.equal(tensor, tuned[name])
        expected = BUILDERS["sd"](0)
        expected.unet.load_state_dict(tuned)
        assert torch.equal(draw(loaded.pipeline), draw(expected))


@pytest.mark.parametrize(("kind", "stored"), [(torch.float32, "F32"), (torch.float16, "F16")])
def test_a_whole_checkpoint_in_the_original_layout_is_packed_with_a_base(
    kind: torch.dtype, stored: str, folder: Path, tmp_path: Path
) -> None:
    wanted = BUILDERS["sd"](4)
    for module in (wanted.unet, wanted.vae, wanted.text_encoder):
        torch.nn.Module.to(module, kind)
    file = tmp_path / "checkpoint.safetensors"
    save_file(original_checkpoint(wanted), file)
    store = SnapshotStore(tmp_path / "store")
    digest = pack(file, store, base=folder)
    assert store.open(digest).manifest.component("unet").dtypes == (stored,)
    with a_loader(store) as loader, loader.load(digest) as loaded:
        for name in ("unet", "vae", "text_encoder"):
            ours, theirs = (tensors_of(getattr(each, name)) for each in (loaded.pipeline, wanted))
            assert ours.keys() == theirs.keys()
            for key, tensor in theirs.items():
                assert torch.equal(ours[key], tensor), (name, key)


def test_a_single_file_needs_a_base_and_must_fit_it(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(InvalidArgument, match="base=FOLDER"):
        pack(file, tmp_path / "store")
    with pytest.raises(InvalidArgument, match="component=NAME"):
        pack(file, tmp_path / "store", base=folder)
    with pytest.raises(SnapshotInvalid, match="are not those of vae"):
        pack(file, tmp_path / "store", base=folder, component="vae")
    with pytest.raises(InvalidArgument, match="no component 'nose'"):
        pack(file, tmp_path / "store", base=folder, component="nose")
    with pytest.raises(InvalidArgument, match="no such file or folder"):
        pack(tmp_path / "nothing", tmp_path / "store")


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (Path.touch, (Path("exploded"),))


def write_pickles(folder: Path) -> list[Path]:
    plain, archive, disguised = (folder / name for name in ("a.ckpt", "b.bin", "c.safetensors"))
    plain.write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    disguised.write_bytes(archive.read_bytes())
    return [plain, archive, disguised]


def test_a_pickle_is_refused_with_the_way_to_convert_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in write_pickles(tmp_path):
        with pytest.raises(SnapshotInvalid, match="safe_serialization=True") as caught:
            pack(path, tmp_path / "store", base=folder)
        assert problem_of(caught.value) == Problem.UNSAFE
    assert not (tmp_path / "exploded").exists()


def test_a_folder_of_pickles_is_refused(folder: Path, tmp_path: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(SnapshotInvalid, match="safe_serialization=True") as caught:
        pack(folder, tmp_path / "store")
    assert problem_of(caught.value) == Problem.UNSAFE


def test_a_pickle_named_safetensors_inside_a_folder_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    torch.save({"a": torch.zeros(2)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(SnapshotInvalid, match="pickle"):
        pack(folder, tmp_path / "store")


def test_a_folder_that_names_code_is_refused_before_it_runs(folder: Path, tmp_path: Path) -> None:
    index = folder / "model_index.json"
    original = index.read_text()
    for changes in (
        {"_class_name": "EvilPipeline"},
        {"_class_name": ["my_pipeline", "EvilPipeline"]},
        {"unet": ["my_unet", "UNet2DConditionModel"]},
        {"scheduler": ["os", "Scheduler"]},
    ):
        edit(index, **changes)
        with pytest.raises(SnapshotInvalid) as caught:
            pack(folder, tmp_path / "store")
        assert problem_of(caught.value) == Problem.UNSAFE
        index.write_text(original)
    edit(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "x.Y"})
    with pytest.raises(SnapshotInvalid, match="auto_map") as caught:
        pack(folder, tmp_path / "store")
    assert problem_of(caught.value) == Problem.UNSAFE


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapshotInvalid, match="model_index"):
        pack(tmp_path, tmp_path / "store")


def test_another_family_than_promised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotInvalid, match="is of family sd, not sdxl"):
        pack(BUILDERS["sd"](0), tmp_path, family="sdxl")
    with pytest.raises(SnapshotInvalid, match="known: sd, sd_inpaint, sdxl"):
        pack(BUILDERS["sd"](0), tmp_path, family="sora")
    with pytest.raises(SnapshotInvalid, match="not a pipeline class"):
        pack(object(), tmp_path)


def test_a_module_that_could_not_be_loaded_is_not_packed(tmp_path: Path) -> None:
    pipeline = BUILDERS["sd"](0)
    pipeline.unet.extra = torch.nn.Linear(2, 2)
    with pytest.raises(SnapshotInvalid, match="the module lacks"):
        pack(pipeline, tmp_path)
    pipeline = BUILDERS["sd"](0)
    pipeline.unet.to("meta")
    with pytest.raises(SnapshotInvalid, match="no plain data"):
        pack(pipeline, tmp_path)
    assert list(SnapshotStore(tmp_path)) == []


def test_packing_leaves_the_pipeline_as_it_was(tmp_path: Path) -> None:
    pipeline = BUILDERS["sdxl"](0).to(torch.bfloat16)
    picture = draw(pipeline)
    pack(pipeline, tmp_path)
    assert pipeline.vae.dtype == torch.bfloat16
    assert torch.equal(draw(pipeline), picture)


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    told: list[PackProgress] = []
    pack(BUILDERS["sd"](0), tmp_path, on_progress=told.append)
    assert told[-1].packed_bytes == told[-1].total_bytes
    assert {each.component for each in told} == {"text_encoder", "unet", "vae"}


@pytest.mark.parametrize("family", BUILDERS)
def test_the_input_schema_accepts_its_own_defaults_and_no_more(
    family: str, store: SnapshotStore, digests: dict[str, str]
) -> None:
    manifest = store.open(digests[family]).manifest
    check = jsonschema_rs.validator_for(dict(manifest.input_schema))
    assert check.is_valid({"prompt": "a horse", **manifest.defaults})
    assert check.is_valid({"prompt": "a horse", "seed": 2**64 - 1})
    for wrong in (
        {},
        {"prompt": 1},
        {"prompt": ""},
        {"prompt": "x" * 5000},
        {"prompt": "a", "surprise": 1},
        {"prompt": "a", "num_images": 9},
        {"prompt": "a", "seed": -1},
        {"prompt": "a", "seed": 2**64},
        {"prompt": "a", "image_size": {"width": 33, "height": 32}},
        {"prompt": "a", "image_size": {"width": 1 << 20, "height": 32}},
        {"prompt": "a", "image_size": {"width": 32}},
        {"prompt": "a", "output_format": "bmp"},
    ):
        assert not check.is_valid(wrong), wrong
    takes_negative = "negative_prompt" in dict(manifest.defaults)
    assert takes_negative == (family != "flux")


def test_defaults_can_be_given_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    digest = pack(BUILDERS["sd"](0), tmp_path, defaults={"num_inference_steps": 4})
    assert SnapshotStore(tmp_path).open(digest).manifest.defaults["num_inference_steps"] == 4
    with pytest.raises(SnapshotInvalid, match=r"defaults\.steps"):
        pack(BUILDERS["sd"](0), tmp_path, defaults={"steps": 4})


def test_distilled_flux_defaults_to_few_steps(tmp_path: Path) -> None:
    from support.tiny_models import tiny_flux

    digest = pack(tiny_flux(0, guidance_embeds=False), tmp_path)
    defaults = SnapshotStore(tmp_path).open(digest).manifest.defaults
    assert (defaults["num_inference_steps"], defaults["guidance_scale"]) == (4, 0.0)


def test_the_preview_map_is_finite_and_has_a_row_per_latent_channel(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    for digest in digests.values():
        preview = store.open(digest).manifest.preview
        assert preview is not None
        assert len(preview.weights) == 4
        assert 0 <= preview.r2 <= 1
