"""LoRAs that come with a request: over a loaded model for one run, and nothing left of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.adapters import Bound, read_loose
from quickthaw.snapshot.adapters.packed import read_packed
from quickthaw.snapshot.loaded import LoadedModel
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.remote import RemoteSettings
from quickthaw.wire.errors import InvalidArgument, NotFound, SnapshotCorrupt, SnapshotInvalid
from support import flux2_models, language_models
from support.flux2_models import tiny_klein
from support.language_models import tiny_qwen_image, tiny_z_image
from support.loras import everything, lora, with_peft
from support.other_models import make, tiny_sd3
from support.snapshots import BUILDERS, a_loader, draw, flip_bit
from support.tiny_models import tiny_sd, tiny_sdxl

COMPONENTS = {
    "sd": ("unet", "text_encoder"),
    "sdxl": ("unet", "text_encoder", "text_encoder_2"),
    "flux": ("transformer", "text_encoder"),
}


def loose(model: LoadedModel, path: Path, scale: float = 1.0) -> Bound:
    parts = model.pipeline.components
    return read_loose(path, model.manifest, parts, "loras[0]").bound(parts, scale, "loras[0]")


def drawn(model: LoadedModel, more: Sequence[Bound]) -> torch.Tensor:
    with model.adapted(more=more):
        return draw(model.pipeline)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_two_with_scales_draw_what_diffusers_draws_with_them(family: str, tmp_path: Path) -> None:
    build, parts = BUILDERS[family], COMPONENTS[family]
    paths = [
        lora(tmp_path / f"{seed}.safetensors", build(0), parts[:seed], seed=seed, rank=2 + seed)
        for seed in (1, 2)
    ]
    scales = (0.7, -1.3)
    expected = draw(with_peft(build(0), *paths, scales=scales))
    room = SnapshotStore(tmp_path / "store")
    with a_loader(room) as loader, loader.load(pack(build(0), room)) as model:
        more = [loose(model, path, scale) for path, scale in zip(paths, scales, strict=True)]
        assert torch.equal(drawn(model, more), expected)
        plain = draw(model.pipeline)
    assert torch.equal(plain, draw(build(0)))
    assert not torch.equal(plain, expected)


MADE: Mapping[str, tuple[Callable[[int], Any], Callable[[Any], torch.Tensor]]] = {
    "sd3": (tiny_sd3, make),
    "flux2_klein": (tiny_klein, flux2_models.make),
    "qwen_image": (tiny_qwen_image, partial(language_models.make, family="qwen_image")),
    "z_image": (tiny_z_image, partial(language_models.make, family="z_image")),
}


@pytest.mark.parametrize("family", MADE)
def test_other_families_draw_what_diffusers_draws_with_them(family: str, tmp_path: Path) -> None:
    build, drawn_by = MADE[family]
    original = build(0)
    paths = [
        lora(tmp_path / f"{seed}.safetensors", original, ("transformer",), seed=seed)
        for seed in (1, 2)
    ]
    room = SnapshotStore(tmp_path / "store")
    digest = pack(original, room)
    expected = drawn_by(with_peft(original, *paths, scales=(0.7, -1.3)))
    with a_loader(room) as loader, loader.load(digest) as model:
        properties = model.manifest.input_schema["properties"]
        assert isinstance(properties, dict)
        assert "loras" in properties
        more = [loose(model, path, scale) for path, scale in zip(paths, (0.7, -1.3), strict=True)]
        plain = drawn_by(model.pipeline)
        with model.adapted(more=more):
            assert torch.equal(drawn_by(model.pipeline), expected)
        assert torch.equal(drawn_by(model.pipeline), plain)
    assert not torch.equal(plain, expected)


def test_they_come_after_the_adapters_that_the_model_was_packed_with(tmp_path: Path) -> None:
    packed, given = (
        lora(tmp_path / f"{seed}.safetensors", tiny_sd(0), ("unet",), seed=seed) for seed in (1, 2)
    )
    expected = draw(with_peft(tiny_sd(0), packed, given, scales=(0.5, 0.9)))
    room = SnapshotStore(tmp_path / "store")
    digest = pack(packed, room, base=pack(tiny_sd(0), room))
    with a_loader(room) as loader, loader.load(digest) as model:
        with model.adapted(0.5, [loose(model, given, 0.9)]):
            assert torch.equal(draw(model.pipeline), expected)
        alone = drawn(model, ())
    assert torch.equal(alone, draw(with_peft(tiny_sd(0), packed)))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("three")
    paths = [
        lora(
            folder / f"{seed}.safetensors",
            tiny_sd(0),
            ("unet",),
            seed=seed,
            rank=seed,
            alpha=1.5 * seed,
            naming="kohya" if seed == 2 else "peft",
            choose=everything if seed == 3 else lambda name, layer: name.endswith("to_q"),
        )
        for seed in (1, 2, 3)
    ]
    room = SnapshotStore(folder / "store")
    digest = pack(tiny_sd(0), room)
    return SimpleNamespace(paths=paths, room=room, digest=digest)


@settings(max_examples=6, deadline=None)
@given(
    order=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
    scales=st.lists(st.floats(-4, 4, width=16), min_size=3, max_size=3),
)
def test_any_order_and_scales_give_diffusers_bits(
    three: SimpleNamespace, order: list[int], scales: list[float]
) -> None:
    paths = [three.paths[index] for index in order]
    expected = _prediction(with_peft(tiny_sd(0), *paths, scales=scales[: len(order)]).unet)
    with a_loader(three.room) as loader, loader.load(three.digest) as model:
        more = [loose(model, path, scale) for path, scale in zip(paths, scales, strict=False)]
        with model.adapted(more=more):
            assert torch.equal(_prediction(model.pipeline.unet), expected)
        assert torch.equal(_prediction(model.pipeline.unet), _prediction(tiny_sd(0).unet))


def _prediction(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    width = unet.config.cross_attention_dim
    with torch.inference_mode():
        found: torch.Tensor = unet(
            torch.randn(1, unet.config.in_channels, 16, 16, generator=generator),
            torch.tensor([7]),
            torch.randn(1, 5, width, generator=generator),
        ).sample
    return found


# ---- what strangers send -------------------------------------------------------------------------


def changed(
    path: Path,
    metadata: dict[str, str] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    save_file({**load_file(path), **(tensors or {})}, path, metadata)
    return path


@pytest.fixture
def base(three: SimpleNamespace) -> Any:
    with a_loader(three.room) as loader, loader.load(three.digest) as model:
        yield model


def test_a_lora_of_another_family_is_refused_by_name(base: LoadedModel, tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sdxl(0), ("unet",))
    with pytest.raises((InvalidArgument, SnapshotInvalid), match=r"loras\[0\]: "):
        loose(base, path)
    other = lora(tmp_path / "y.safetensors", tiny_sd3(0), ("transformer",))
    with pytest.raises((InvalidArgument, SnapshotInvalid), match=r"loras\[0\]: "):
        loose(base, other)


@pytest.mark.parametrize(
    "field",
    [
        {"unet.layer_replication": [[0, 1000]]},
        {"unet.megatron_core": "os"},
        {"unet.init_lora_weights": "pissa"},
        {"unet.target_modules": "(a+)+$"},
        {"unet.rank_pattern": {"(a+)+$": 4}},
        {"unet.use_dora": True},
        {"unet.r": 1e300},
    ],
    ids=lambda field: str(next(iter(field))),
)
def test_metadata_beyond_ranks_and_alphas_is_refused(
    field: dict[str, Any], base: LoadedModel, three: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(three.paths[0].read_bytes())
    changed(path, {"lora_adapter_metadata": json.dumps({"unet.r": 1, **field})})
    with pytest.raises(SnapshotInvalid, match="lora_adapter_metadata"):
        loose(base, path)


def test_what_diffusers_writes_as_metadata_is_taken(base: LoadedModel, tmp_path: Path) -> None:
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = tiny_sd(0)
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["to_q", "to_k"], init_lora_weights=False)
    pipeline.unet.add_adapter(config)
    state = get_peft_model_state_dict(pipeline.unet)
    type(pipeline).save_lora_weights(
        tmp_path,
        unet_lora_layers={name: tensor.contiguous() for name, tensor in state.items()},
        unet_lora_adapter_metadata=pipeline.unet.peft_config["default"].to_dict(),
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    expected = draw(with_peft(tiny_sd(0), path))
    assert torch.equal(drawn(base, [loose(base, path)]), expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("unet.(a+)+$.lora_A.weight", (4, 4)),
        ("unet.blocks.99999999.lora_A.weight", (4, 4)),
        ("unet.x.lora_A.weight", (1, 1, 1, 2, 2)),
        ("unet.x.lora_A.weight", (4, 0)),
        ("unet." + "x" * 400 + ".lora_A.weight", (4, 4)),
    ],
)
def test_names_and_shapes_that_no_lora_has_are_refused(
    name: str, shape: tuple[int, ...], base: LoadedModel, three: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(three.paths[0].read_bytes())
    with pytest.raises(SnapshotInvalid, match=r"loras\[0\]"):
        loose(base, changed(path, tensors={name: torch.zeros(shape)}))


def test_more_tensors_than_the_base_has_layers_for_are_refused(
    base: LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"unet.x{n}.lora_A.weight": torch.ones(1, 1) for n in range(6000)}, path)
    with pytest.raises(InvalidArgument, match="6000 tensors"):
        loose(base, path)


# ---- packed ones by themselves -------------------------------------------------------------------


def test_a_packed_lora_is_read_without_its_base_and_checked(
    three: SimpleNamespace, tmp_path: Path
) -> None:
    room, here = SnapshotStore(tmp_path / "store"), SnapshotStore(tmp_path / "here")
    base = pack(tiny_sd(0), room)
    digest = pack(three.paths[0], room, base=base, scale=0.5)

    def read(wanted: str = digest, uri: str = room.root.as_uri(), bytes_max: int = 1 << 20) -> Any:
        return read_packed(wanted, here, uri, bytes_max, RemoteSettings())

    ((part, tensors),) = read()
    original = load_file(three.paths[0])
    assert {f"unet.{name}" for name in tensors} == original.keys()
    assert all(torch.equal(tensors[name], original[f"unet.{name}"]) for name in tensors)
    with pytest.raises(InvalidArgument, match="no LoRA"):
        read(base)
    with pytest.raises(InvalidArgument, match="10 are taken"):
        read(bytes_max=10)
    with pytest.raises(NotFound):
        read(uri="/nowhere")
    flip_bit(room.component_path(part.digest), part.data_start + 5)
    with pytest.raises(SnapshotCorrupt):
        read()


def test_what_grows_beyond_its_bound_in_the_type_of_the_base_is_refused_unread(
    base: LoadedModel, tmp_path: Path
) -> None:
    path = lora(tmp_path / "a.safetensors", tiny_sd(0), ("unet",), rank=8)
    tensors = {name: each.to(torch.float8_e4m3fn) for name, each in load_file(path).items()}
    save_file(tensors, path)
    items = sum(each.numel() for each in tensors.values())
    modules = base.pipeline.components
    with pytest.raises(InvalidArgument, match=f"it has {4 * items} bytes"):
        read_loose(path, base.manifest, modules, "the file", 4 * items - 1)
    assert read_loose(path, base.manifest, modules, "the file", 4 * items).nbytes == 4 * items
