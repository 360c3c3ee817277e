"""Eight-bit weights: which ones, how far off, and that they load like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.manifest_json import encode_manifest, parse_manifest
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.quantized import (
    Method,
    QuantizedLinear,
    encode,
    fp8_product,
    int8_product,
    widened,
)
from quickthaw.snapshot.skeleton import build
from quickthaw.wire.errors import InvalidArgument, SnapshotInvalid
from support.original_layout import original_checkpoint
from support.snapshots import BUILDERS, a_loader, draw, fine_tune, tensors_of

FP8, INT8 = Method.FP8, Method.INT8
PICTURE_ERROR = {"fp8": 0.15, "int8": 0.05}
"""Of pictures in 0..1, for these tiny random models; measured 0.06 and 0.012 at most."""


def manifest_of(store: SnapshotStore, digest: str) -> Any:
    return store.open(digest).manifest


@pytest.mark.parametrize("method", ["fp8", "int8"])
@pytest.mark.parametrize("family", BUILDERS)
def test_a_quantised_model_is_smaller_and_draws_nearly_the_same(
    family: str, method: str, store: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    original = BUILDERS[family](0)
    small = SnapshotStore(tmp_path)
    digest = pack(original, small, quantize=method)
    before, after = (
        sum(part.data_bytes for part in manifest_of(*pair).components if part.quantization)
        for pair in ((store, digests[family]), (small, digest))
    )
    assert before == 0
    originals = {part.name: part for part in manifest_of(store, digests[family]).components}
    for part in manifest_of(small, digest).components:
        if part.quantization is not None:
            assert part.data_bytes < 0.75 * originals[part.name].data_bytes
        else:
            assert part.digest == originals[part.name].digest, "untouched, so shared"
    assert after > 0
    with a_loader(small) as loader, loader.load(digest) as loaded:
        error = (draw(loaded.pipeline) - draw(original)).abs().max()
    assert 0 < error < PICTURE_ERROR[method]


def test_norms_embeddings_and_the_first_and_last_layers_stay_as_they_were(tmp_path: Path) -> None:
    original, store = BUILDERS["flux"](0), SnapshotStore(tmp_path)
    digest = pack(original, store, quantize="fp8")
    part = manifest_of(store, digest).component("transformer")
    stored = load_file(store.component_path(part.digest))
    untouched = tensors_of(original.transformer)
    for name in (
        "x_embedder.weight",
        "context_embedder.weight",
        "time_text_embed.timestep_embedder.linear_1.weight",
        "norm_out.linear.weight",
        "proj_out.weight",
        "transformer_blocks.0.attn.norm_q.weight",
        "transformer_blocks.0.attn.to_q.bias",
    ):
        assert torch.equal(stored[name], untouched[name]), name
    assert stored["transformer_blocks.0.attn.to_q.weight_quantized"].dtype is FP8.dtype
    assert stored["transformer_blocks.0.attn.to_q.weight_scale"].shape == (32,)
    assert "transformer_blocks.0.attn.to_q.weight" not in stored
    vae = manifest_of(store, digest).component("vae")
    assert vae.quantization is None


def test_quantised_tensors_are_bound_as_views_and_the_working_type_stays(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    digest = pack(BUILDERS["flux"](0).to(torch.bfloat16), store, quantize="int8")
    with a_loader(store) as loader, loader.load(digest) as loaded:
        transformer = loaded.pipeline.transformer
        layer = transformer.transformer_blocks[0].attn.to_q
        assert isinstance(layer, QuantizedLinear)
        assert layer.weight_quantized.dtype is torch.int8
        assert layer.weight_quantized.data_ptr() % 256 == 0
        assert layer.weight.dtype is torch.bfloat16
        assert transformer.dtype is torch.bfloat16, "pipelines cast their inputs to this"
        for tensor in tensors_of(transformer).values():
            assert not tensor.is_meta
            assert not tensor.requires_grad
        assert torch.isfinite(draw(loaded.pipeline)).all()


def test_the_layers_of_t5_that_need_float32_compute_in_it(tmp_path: Path) -> None:
    BUILDERS["flux"](0).save_pretrained(tmp_path / "folder")
    store = SnapshotStore(tmp_path / "store")
    digest = pack(
        tmp_path / "folder", store, dtype="float16", quantize="fp8", only=["text_encoder_2"]
    )
    part = manifest_of(store, digest).component("text_encoder_2")
    assert part.quantization.layers["encoder.block.0.layer.1.DenseReluDense.wo"] == "F32"
    assert part.quantization.layers["encoder.block.0.layer.0.SelfAttention.q"] == "F16"
    assert {p.name for p in manifest_of(store, digest).components if p.quantization} == {
        "text_encoder_2"
    }
    words = torch.arange(12)[None] % 20
    with a_loader(store) as loader, loader.load(digest) as loaded, torch.no_grad():
        found = loaded.pipeline.text_encoder_2(words).last_hidden_state
    wanted = BUILDERS["flux"](0).text_encoder_2(words).last_hidden_state
    assert (found.float() - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_fine_tunes_quantised_alike_have_the_same_layout(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    one, two = (
        manifest_of(store, pack(fine_tune(seed), store, quantize="fp8")).component("unet")
        for seed in (1, 2)
    )
    assert one.header_digest == two.header_digest
    assert one.digest != two.digest


def test_a_model_and_its_quantised_twin_are_loaded_side_by_side(tmp_path: Path) -> None:
    store, original = SnapshotStore(tmp_path), BUILDERS["sd"](0)
    plain, small = pack(original, store), pack(original, store, quantize="int8", only=["denoiser"])
    with a_loader(store) as loader, loader.load(plain) as one, loader.load(small) as two:
        assert one.pipeline.unet is not two.pipeline.unet
        assert one.pipeline.text_encoder is two.pipeline.text_encoder
        wanted = draw(original)
        assert torch.equal(draw(one.pipeline), wanted)
        assert not torch.equal(draw(two.pipeline), wanted)


def in_fp8(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As such checkpoints are made: everything cast, biases and norms too, without scales."""
    return {
        name: each.to(torch.float8_e4m3fn) if each.is_floating_point() else each
        for name, each in state.items()
    }


def test_weights_that_come_in_eight_bits_are_stored_as_they_came(tmp_path: Path) -> None:
    base, tuned = BUILDERS["flux"](0), BUILDERS["flux"](3)
    base.save_pretrained(tmp_path / "base")
    state = in_fp8(tuned.transformer.state_dict())
    save_file(state, tmp_path / "tuned.safetensors")
    store = SnapshotStore(tmp_path / "store")
    digest = pack(tmp_path / "tuned.safetensors", store, base=tmp_path / "base")
    part = manifest_of(store, digest).component("transformer")
    assert part.quantization.method == "fp8_unscaled"
    stored = load_file(store.component_path(part.digest))
    matrices = [name for name in state if f"{name}_quantized" in stored]
    assert "x_embedder.weight" in matrices, "nothing is lost, so the first layer too"
    assert len(matrices) > 40
    for name in matrices:
        assert torch.equal(stored[f"{name}_quantized"].float(), state[name].float()), name
    base.transformer.load_state_dict({name: each.float() for name, each in state.items()})
    with a_loader(store) as loader, loader.load(digest) as loaded:
        assert torch.equal(draw(loaded.pipeline), draw(base)), "the same weights, to the last bit"


def test_a_whole_checkpoint_in_eight_bits_is_stored_as_it_came(tmp_path: Path) -> None:
    original = BUILDERS["sd"](4)
    original.save_pretrained(tmp_path / "base")
    save_file(in_fp8(original_checkpoint(original)), tmp_path / "checkpoint.safetensors")
    store = SnapshotStore(tmp_path / "store")
    digest = pack(tmp_path / "checkpoint.safetensors", store, base=tmp_path / "base")
    for part in manifest_of(store, digest).components:
        assert part.quantization.method == "fp8_unscaled", part.name
        assert "F8_E4M3" in part.dtypes
        assert "BF16" in part.dtypes, "what cannot be computed with in eight bits is widened"
    with a_loader(store) as loader, loader.load(digest) as loaded:
        ours = loaded.pipeline.unet.conv_out.weight.float()
        theirs = original.unet.conv_out.weight.to(torch.float8_e4m3fn).float()
        assert torch.equal(ours, theirs)
        assert torch.isfinite(draw(loaded.pipeline)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "must be fp8 or int8"),
        ({"quantize": "fp8_unscaled"}, "must be fp8 or int8"),
        ({"quantize": "fp8", "only": ["nose"]}, "no component 'nose'; it has text_encoder"),
        ({"only": ["unet"]}, "give --quantize"),
    ],
)
def test_a_wrong_wish_is_refused_by_name(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        pack(BUILDERS["sd"](0), tmp_path, **arguments)
    assert list(SnapshotStore(tmp_path)) == []


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = SnapshotStore(tmp_path_factory.mktemp("quantised"))
    digest = pack(BUILDERS["sd"](0), store, quantize="fp8")
    found: dict[str, Any] = json.loads(store.manifest_path(digest).read_bytes())
    assert found["version"] == 2
    return found


def test_the_manifest_survives_being_read_and_written(document: dict[str, Any]) -> None:
    manifest = parse_manifest(json.dumps(document).encode())
    assert parse_manifest(encode_manifest(manifest)) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fp4"}, "quantization.method"),
        ({"layers": {}}, "1 to 65536 layers"),
        ({"layers": {"conv_in": "I8"}}, "computes in 'I8'"),
        ({"layers": {"": "F32"}}, "0 characters"),
        ({"layers": {"conv_in": 1}}, "must map texts to texts"),
        ({"more": 1}, "is not a field"),
    ],
)
def test_a_manifest_that_says_it_wrongly_is_refused(
    document: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    part = document["components"][1]
    changed = {**part, "quantization": {**part["quantization"], **change}}
    hostile = {**document, "components": [changed, *document["components"][2:]]}
    with pytest.raises(SnapshotInvalid, match=message):
        parse_manifest(json.dumps(hostile).encode())
    with pytest.raises(SnapshotInvalid, match="is not a field"):
        parse_manifest(json.dumps({**document, "version": 1}).encode())


@pytest.mark.parametrize(
    "layer", ["mid_block", "nose", "conv_norm_out", "down_blocks", "conv_in.weight"]
)
def test_only_layers_that_can_be_quantised_may_be_named(
    document: dict[str, Any], layer: str
) -> None:
    parts = [dict(part) for part in document["components"]]
    unet = next(part for part in parts if part["name"] == "unet")
    unet["quantization"] = {"method": "fp8", "layers": {layer: "F32"}}
    manifest = parse_manifest(json.dumps({**document, "components": parts}).encode())
    with pytest.raises(SnapshotInvalid, match="is no layer of"):
        build(manifest.component("unet"))


rows = st.lists(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=4
)


@given(rows)
@settings(max_examples=100)
def test_int8_is_never_off_by_more_than_half_a_step(values: list[list[float]]) -> None:
    weight = torch.tensor(values)
    encoded, scale = encode(weight, INT8)
    assert scale is not None
    error = (encoded.float() * scale[:, None] - weight).abs()
    assert (error <= 0.5001 * scale[:, None]).all()


@given(rows)
@settings(max_examples=100)
def test_fp8_is_never_off_by_more_than_a_sixteenth_or_the_smallest_step(
    values: list[list[float]],
) -> None:
    weight = torch.tensor(values)
    encoded, scale = encode(weight, FP8)
    assert scale is not None
    error = (encoded.float() * scale[:, None] - weight).abs()
    assert torch.isfinite(error).all()
    assert (error <= weight.abs() / 16 * 1.001 + 2**-10 * scale[:, None]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_eight_bit_number_is_widened_exactly(dtype: torch.dtype) -> None:
    numbers = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    numbers = numbers[~numbers.float().isnan()]
    assert len(numbers) == 254
    wide, factor = widened(numbers, dtype)
    assert wide.dtype is dtype
    assert torch.equal(wide * factor, numbers.to(dtype))
    assert torch.equal((wide * factor).signbit(), numbers.float().signbit())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_layers_weight_is_what_was_stored_times_its_scale(dtype: torch.dtype) -> None:
    like = nn.Linear(64, 32, dtype=dtype)
    for method in Method:
        layer = QuantizedLinear(like, method, dtype)
        encoded, scale = encode(like.weight.detach(), method)
        layer.weight_quantized, layer.weight_scale = encoded, scale
        plain = encoded.to(dtype)
        if scale is not None:
            working = torch.float32 if dtype is torch.float16 else dtype
            plain = (encoded.to(working) * scale.to(working)[:, None]).to(dtype)
        assert torch.equal(layer.weight, plain), method


def test_tiny_weights_keep_their_precision_in_float16() -> None:
    like = nn.Linear(64, 32, dtype=torch.float16)
    like.weight.data.mul_(1e-3)
    layer = QuantizedLinear(like, FP8, torch.float16)
    layer.weight_quantized, layer.weight_scale = encode(like.weight.detach(), FP8)
    error = (layer.weight.float() - like.weight.float()).abs()
    assert (error <= like.weight.abs() / 14).all()


@pytest.mark.parametrize("method", [FP8, INT8])
def test_the_products_that_devices_do_in_eight_bits_agree_with_the_plain_one(
    method: Method,
) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(32, 64, generator=generator).bfloat16()
    weight = torch.randn(48, 64, generator=generator)
    encoded, scale = encode(weight, method)
    assert scale is not None
    product = fp8_product if method is FP8 else int8_product
    plain = rows.float() @ (encoded.float() * scale[:, None]).T
    error = (product(rows, encoded, scale).float() - plain).abs()
    # Here the rows are rounded as well, which the plain way does not.
    assert error.mean() < 0.03 * plain.abs().mean()
