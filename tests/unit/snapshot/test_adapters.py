"""LoRAs: packed as components of their own, laid over the base while a run lasts, gone after it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from quickthaw.snapshot import Kind, SnapshotStore, Tier
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.quantized import QuantizedLayer
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import InvalidArgument, SnapshotCorrupt, SnapshotInvalid
from support.loras import adapted, attention, everything, lora, with_peft
from support.snapshots import BUILDERS, a_loader, draw, flip_bit, tensors_of
from support.tiny_models import tiny_flux, tiny_sd, tiny_sdxl

COMPONENTS = {
    "sd": ("unet", "text_encoder"),
    "sdxl": ("unet", "text_encoder", "text_encoder_2"),
    "flux": ("transformer", "text_encoder"),
}


@pytest.fixture
def room(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store")


def bits(model: Any, seed: int = 7) -> torch.Tensor:
    """The picture of a loaded model, its adapters on."""
    with model.adapted():
        return draw(model.pipeline, seed)


# ---- the same bits as diffusers and peft ---------------------------------------------------------


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_the_picture_is_that_of_a_fresh_load_by_diffusers(
    family: str, room: SnapshotStore, tmp_path: Path
) -> None:
    build = BUILDERS[family]
    path = lora(tmp_path / "style.safetensors", build(0), COMPONENTS[family], rank=3)
    base = pack(build(0), room)
    digest = pack(path, room, base=base)
    expected = draw(with_peft(build(0), path))
    with a_loader(room) as loader, loader.load(digest) as model:
        assert torch.equal(bits(model), expected)
        plain = draw(model.pipeline)
    assert torch.equal(plain, draw(build(0)))
    assert not torch.equal(plain, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_convolutions_give_the_same_bits_too(
    dtype: torch.dtype, room: SnapshotStore, tmp_path: Path
) -> None:
    def half() -> Any:
        pipeline = tiny_sdxl(0)
        pipeline.to(dtype)
        return pipeline

    path = lora(
        tmp_path / "x.safetensors", tiny_sdxl(0), choose=everything, rank=5, dtype=torch.float32
    )
    digest = pack(path, room, base=pack(half(), room))
    with a_loader(room) as loader, loader.load(digest) as model:
        manifest = model.manifest
        assert manifest.adapters[0].dtypes == ("BF16" if dtype is torch.bfloat16 else "F16",)
        sample = torch.randn(1, 4, 16, 16, dtype=dtype, generator=torch.Generator().manual_seed(3))
        given = {
            "timestep": torch.tensor([7]),
            "encoder_hidden_states": torch.ones(1, 16, 64, dtype=dtype),
            "added_cond_kwargs": {
                "text_embeds": torch.ones(1, 32, dtype=dtype),
                "time_ids": torch.ones(1, 6, dtype=dtype),
            },
        }
        expected = with_peft(half(), path).unet(sample, **given).sample
        with model.adapted():
            assert torch.equal(model.pipeline.unet(sample, **given).sample, expected)
        assert torch.equal(
            model.pipeline.unet(sample, **given).sample, half().unet(sample, **given).sample
        )


@pytest.mark.parametrize("alpha", [1.0, 4.0, 32.0])
def test_kohya_names_and_alphas_mean_what_they_mean_to_diffusers(
    alpha: float, room: SnapshotStore, tmp_path: Path
) -> None:
    path = lora(
        tmp_path / "kohya.safetensors",
        tiny_sd(0),
        ("unet", "text_encoder"),
        naming="kohya",
        alpha=alpha,
    )
    digest = pack(path, room, base=pack(tiny_sd(0), room))
    with a_loader(room) as loader, loader.load(digest) as model:
        assert torch.equal(bits(model), draw(with_peft(tiny_sd(0), path)))


def test_ranks_and_alphas_may_differ_between_layers(room: SnapshotStore, tmp_path: Path) -> None:
    tensors = load_file(
        lora(tmp_path / "a.safetensors", tiny_sd(0), naming="kohya", rank=4, alpha=2.0)
    )
    narrow = lora(tmp_path / "b.safetensors", tiny_sd(0), naming="kohya", rank=2, alpha=8.0)
    tensors |= {name: each for name, each in load_file(narrow).items() if "to_q" in name}
    path = tmp_path / "mixed.safetensors"
    save_file(tensors, path)
    digest = pack(path, room, base=pack(tiny_sd(0), room))
    adapter = room.open(digest).manifest.adapters[0].adapter
    assert adapter is not None
    assert adapter.rank == 4
    assert set(adapter.alphas.values()) < {2.0, 8.0}
    with a_loader(room) as loader, loader.load(digest) as model:
        assert torch.equal(bits(model), draw(with_peft(tiny_sd(0), path)))


@pytest.mark.parametrize("scale", [0.3, -1.0])
def test_a_scale_is_that_of_set_adapters(scale: float, room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sd(0), naming="kohya", alpha=3.0)
    digest = pack(path, room, base=pack(tiny_sd(0), room), scale=scale)
    with a_loader(room) as loader, loader.load(digest) as model:
        assert torch.equal(bits(model), draw(with_peft(tiny_sd(0), path, scales=[scale])))


def test_a_run_may_ask_for_another_strength(room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sd(0))
    digest = pack(path, room, base=pack(tiny_sd(0), room))
    with a_loader(room) as loader, loader.load(digest) as model:
        with model.adapted(0.3):
            weak = draw(model.pipeline)
        assert torch.equal(weak, draw(with_peft(tiny_sd(0), path, scales=[0.3])))
        with model.adapted(0.0):
            assert torch.equal(draw(model.pipeline), draw(tiny_sd(0)))
        assert torch.equal(bits(model), draw(with_peft(tiny_sd(0), path)))


def test_a_lora_over_a_lora_adds_to_it(room: SnapshotStore, tmp_path: Path) -> None:
    first = lora(tmp_path / "first.safetensors", tiny_sd(0), seed=1)
    second = lora(tmp_path / "second.safetensors", tiny_sd(0), seed=2, choose=everything)
    digest = pack(second, room, base=pack(first, room, base=pack(tiny_sd(0), room)), scale=0.5)
    names = [part.name for part in room.open(digest).manifest.adapters]
    assert names == ["lora_unet", "lora_unet_2"]
    with a_loader(room) as loader, loader.load(digest) as model:
        expected = draw(with_peft(tiny_sd(0), first, second, scales=[1.0, 0.5]))
        assert torch.equal(bits(model), expected)


# ---- sharing -------------------------------------------------------------------------------------


@pytest.fixture
def models(room: SnapshotStore, tmp_path: Path) -> dict[str, str]:
    """Digests of tiny_sd, and of two LoRAs over it."""
    base = pack(tiny_sd(0), room, title="base")
    paths = [lora(tmp_path / f"{name}.safetensors", tiny_sd(0), seed=ord(name)) for name in "ab"]
    return {"base": base} | {path.stem: pack(path, room, base=base) for path in paths}


def test_only_the_adapter_is_loaded_where_the_base_is(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    with a_loader(room) as loader, loader.load(models["base"]) as base:
        free = loader.plan(models["a"]).missing_bytes
        with loader.load(models["a"]) as model:
            adapter = model.manifest.component("lora_unet")
            assert adapter.kind is Kind.ADAPTER
            assert model.report.read_bytes == adapter.data_bytes == free
            assert model.report.bytes_from(Tier.DISK) == adapter.data_bytes
            assert model.pipeline.unet is base.pipeline.unet
        assert loader.evict(adapter.digest, Tier.VRAM) > 0
        with loader.load(models["a"]) as model:
            assert model.report.bytes_from(Tier.PINNED) == adapter.data_bytes
            assert model.report.read_bytes == 0


def test_loras_take_turns_on_one_base_without_a_trace(
    room: SnapshotStore, models: dict[str, str], tmp_path: Path
) -> None:
    alone = {
        name: draw(with_peft(tiny_sd(0), tmp_path / f"{name}.safetensors")) for name in "ab"
    } | {"base": draw(tiny_sd(0))}
    with a_loader(room) as loader:
        loaded = {name: loader.load(digest) for name, digest in models.items()}
        before = tensors_of(loaded["base"].pipeline.unet)
        for name in ("a", "base", "b", "a", "b", "base"):
            assert torch.equal(bits(loaded[name]), alone[name]), name
        after = tensors_of(loaded["base"].pipeline.unet)
        assert after.keys() == before.keys()
        assert all(after[name] is tensor for name, tensor in before.items())
        assert all("forward" not in vars(each) for each in loaded["base"].pipeline.unet.modules())
        for model in loaded.values():
            model.release()


def test_a_model_whose_adapters_are_still_on_their_way_waits_for_them(
    room: SnapshotStore, models: dict[str, str], tmp_path: Path
) -> None:
    expected = draw(with_peft(tiny_sd(0), tmp_path / "a.safetensors"))
    with a_loader(room) as loader, loader.load(models["a"], overlap=True) as model:
        assert torch.equal(bits(model), expected)
        assert model.wait().read_bytes == model.manifest.weight_bytes


def test_switching_never_writes_through_a_tensor_of_another_adapter(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    """peft's hot swap copies into whatever it was given first: a cached A becomes B."""
    with a_loader(room) as loader, loader.load(models["a"]) as a, loader.load(models["b"]) as b:
        buffers = [loader._residents.buffer(m.manifest.adapters[0].digest) for m in (a, b)]
        before = [buffer.data.clone() for buffer in buffers]
        for model in (a, b, a, b):
            bits(model)
        assert all(
            torch.equal(one, buffer.data) for one, buffer in zip(before, buffers, strict=True)
        )


def test_the_base_is_itself_again_after_a_run_that_failed(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    with a_loader(room) as loader, loader.load(models["a"]) as model:
        with pytest.raises(KeyError), model.adapted():
            raise KeyError("in the middle of a run")
        assert torch.equal(draw(model.pipeline), draw(tiny_sd(0)))


def test_two_adapters_at_once_on_one_module_are_refused(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    with a_loader(room) as loader, loader.load(models["a"]) as a, loader.load(models["b"]) as b:
        with a.adapted(), pytest.raises(RuntimeError, match="one at a time"), b.adapted():
            pass
        assert torch.equal(draw(b.pipeline), draw(tiny_sd(0)))


def test_a_released_model_cannot_be_adapted(room: SnapshotStore, models: dict[str, str]) -> None:
    with a_loader(room) as loader:
        model = loader.load(models["a"])
        model.release()
        with pytest.raises(RuntimeError, match="released"), model.adapted():
            pass


def test_compiled_blocks_stand_back_while_an_adapter_is_on(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    """Compiled code has the base's layers built in: run with an adapter it would ignore it."""
    with a_loader(room) as loader, loader.load(models["a"]) as model:
        unet: Any = model.pipeline.unet
        expected = bits(model)
        block = unet.down_blocks[1]

        def compiled(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("compiled code ran with an adapter on")

        vars(block)["forward"] = compiled
        assert torch.equal(bits(model), expected)
        assert vars(block).pop("forward") is compiled
        block._compiled_call_impl = compiled
        assert torch.equal(bits(model), expected)
        assert block._compiled_call_impl is compiled
        block._compiled_call_impl = None


def test_evicting_the_base_and_loading_again_keeps_adapter_and_base_apart(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    with a_loader(room) as loader:
        with loader.load(models["a"]) as model:
            expected = bits(model)
            digests = [part.digest for part in model.manifest.components]
        for digest in digests:
            loader.evict(digest, Tier.VRAM)
        with loader.load(models["a"]) as model, loader.load(models["base"]) as base:
            assert torch.equal(bits(model), expected)
            assert torch.equal(draw(base.pipeline), draw(tiny_sd(0)))


def test_an_adapter_lies_over_eight_bit_weights_too(room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sd(0), choose=everything)
    digest = pack(path, room, base=pack(tiny_sd(0), room, quantize="int8"))
    weights = load_file(path)

    def added(name: str, given: torch.Tensor) -> torch.Tensor:
        down, up = (weights[f"unet.{name}.lora_{part}.weight"] for part in "AB")
        if down.ndim == 2:
            return given @ down.T @ up.T
        return functional.conv2d(functional.conv2d(given, down, padding=1), up)

    given = {
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": torch.randn(1, 5, 32),
        "mid_block.resnets.0.conv1": torch.randn(1, 32, 8, 8),
    }
    with a_loader(room) as loader, loader.load(digest) as model:
        for name, x in given.items():
            layer = model.pipeline.unet.get_submodule(name)
            assert isinstance(layer, QuantizedLayer)
            before = layer(x)
            with model.adapted():
                assert torch.equal(layer(x), before + added(name, x))
            assert torch.equal(layer(x), before)


# ---- packing -------------------------------------------------------------------------------------


def test_the_snapshot_shares_its_base_and_verifies(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    base, tuned = room.open(models["base"]).manifest, room.open(models["a"]).manifest
    assert tuned.modules == base.modules
    assert tuned.title == "base + a"
    assert verify(room.root, models["a"]).intact
    adapter = tuned.adapters[0]
    names = {name for name in load_file(room.component_path(adapter.digest)) if "__pad" not in name}
    layers = adapted(tiny_sd(0).unet, attention)
    assert names == {f"{name}.lora_{part}.weight" for name in layers for part in "AB"}


def test_defaults_of_the_input_may_be_its_own(room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "turbo.safetensors", tiny_sd(0))
    base = pack(tiny_sd(0), room)
    digest = pack(path, room, base=base, defaults={"num_inference_steps": 4})
    assert room.open(digest).manifest.defaults["num_inference_steps"] == 4
    with pytest.raises(SnapshotInvalid, match=r"defaults\.steps"):
        pack(path, room, base=base, defaults={"steps": 4})


def test_a_damaged_adapter_never_reaches_a_model(
    room: SnapshotStore, models: dict[str, str]
) -> None:
    adapter = room.open(models["a"]).manifest.adapters[0]
    flip_bit(room.component_path(adapter.digest), adapter.data_start + 7)
    assert [line.part for line in verify(room.root, models["a"]).findings][:1] == ["lora_unet"]
    with a_loader(room) as loader, pytest.raises(SnapshotCorrupt, match="lora_unet"):
        loader.load(models["a"])


def test_a_lora_of_another_family_is_refused_by_name(room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "flux.safetensors", tiny_flux(0), ("transformer",))
    base = pack(tiny_sd(0), room)
    with pytest.raises(InvalidArgument, match=r"flux\.safetensors"):
        pack(path, room, base=base)


def test_a_lora_of_another_shape_is_refused_by_name(room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "sdxl.safetensors", tiny_sdxl(0))
    base = pack(tiny_sd(0), room)
    with pytest.raises(InvalidArgument, match=r"sdxl\.safetensors: does not fit") as caught:
        pack(path, room, base=base)
    told = caught.value.message
    assert "\n" not in told
    assert re.search(r"\d+ of its layers .* first is \S+(to_\w|proj\w*|\.\d+), which", told), told
    assert "torch.Size" not in told


def test_a_type_that_a_lora_would_not_get_is_refused(room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sd(0))
    base = pack(tiny_sd(0), room)
    with pytest.raises(InvalidArgument, match="dtype 'float16' is for a model's weights"):
        pack(path, room, base=base, dtype="float16")
    with pytest.raises(InvalidArgument, match="quantize 'int8'"):
        pack(path, room, base=base, quantize="int8")


def test_a_lora_needs_a_base_and_nothing_else_takes_a_scale(
    room: SnapshotStore, tmp_path: Path
) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sd(0))
    with pytest.raises(InvalidArgument, match="give its base"):
        pack(path, room)
    with pytest.raises(InvalidArgument, match="scale is for LoRA"):
        pack(tiny_sd(0), room, scale=0.5)
    with pytest.raises(InvalidArgument, match="must lie within"):
        pack(path, room, base=pack(tiny_sd(0), room), scale=1e9)


def test_dora_is_refused_with_what_to_do(room: SnapshotStore, tmp_path: Path) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sd(0))
    tensors = load_file(path)
    for name, layer in adapted(tiny_sd(0).unet, attention).items():
        assert isinstance(layer, torch.nn.Linear)
        tensors[f"unet.{name}.lora_magnitude_vector"] = torch.ones(layer.out_features)
    save_file(tensors, path)
    with pytest.raises(InvalidArgument, match=r"x\.safetensors"):
        pack(path, room, base=pack(tiny_sd(0), room))
