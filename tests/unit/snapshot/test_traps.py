"""What the libraries do that would draw wrong pictures in silence, one test for each."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from peft import LoraConfig

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import SnapshotInvalid
from support.snapshots import a_loader, draw, fine_tune, tensors_of
from support.thawed import frozen, thawed
from support.tiny_models import CLIP_HIDDEN, seeded, tiny_sd, with_safety_checker

# Neither library types its constructors.
df: Any = diffusers
tf: Any = transformers


def test_kernels_of_k_blocks_are_stored_although_no_state_dict_has_them() -> None:
    with seeded(0):
        unet = df.UNet2DConditionModel(
            act_fn="gelu",
            attention_head_dim=8,
            norm_num_groups=None,
            block_out_channels=(32, 32, 64, 64),  # one group for each 32
            time_cond_proj_dim=16,
            conv_in_kernel=1,
            conv_out_kernel=1,
            cross_attention_dim=16,
            down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
            up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
            mid_block_type=None,
            only_cross_attention=False,
            resnet_time_scale_shift="scale_shift",
            time_embedding_type="fourier",
            timestep_post_act="gelu",
        ).eval()
    kernels = {name for name in tensors_of(unet) if name.endswith(".kernel")}
    assert kernels
    assert not kernels & unet.state_dict().keys()
    again = thawed(unet, "diffusers.UNet2DConditionModel")
    latents, words, extra = torch.ones(1, 4, 16, 16), torch.ones(1, 3, 16), torch.ones(1, 16)
    with torch.inference_mode():
        wanted = unet(latents, 3, words, timestep_cond=extra).sample
        assert torch.isfinite(wanted).all()
        assert torch.equal(again(latents, 3, words, timestep_cond=extra).sample, wanted)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # diffusers' own business
def test_weights_that_normalisation_computes_are_neither_stored_nor_missed() -> None:
    with seeded(0):
        vae = df.AutoencoderOobleck(
            encoder_hidden_size=12,
            downsampling_ratios=[2, 4],
            channel_multiples=[1, 2],
            decoder_channels=8,
            decoder_input_channels=4,
            audio_channels=1,
        ).eval()
    names = {entry.name for entry in frozen(vae, "diffusers.AutoencoderOobleck")[1].tensors}
    assert "decoder.conv1.weight_g" in names
    assert "decoder.conv1.weight" not in names
    again = thawed(vae, "diffusers.AutoencoderOobleck")
    latents = torch.linspace(-1, 1, 4 * 16).reshape(1, 4, 16)
    with torch.inference_mode():
        wanted = vae.decode(latents).sample
        for _ in range(2):  # the second time its weights have been computed once before
            assert torch.equal(again.decode(latents).sample, wanted)


def test_a_tensor_that_is_neither_parameter_nor_buffer_is_refused(
    monkeypatch: pytest.MonkeyPatch, store: SnapshotStore, digests: dict[str, str]
) -> None:
    class Scaled(df.AutoencoderKL):  # type: ignore[misc]  # diffusers' classes have no types
        def __init__(self, **config: Any) -> None:
            super().__init__(**config)
            self.latents_mean = torch.zeros(4)

    monkeypatch.setattr(diffusers, "AutoencoderKL", Scaled)
    with a_loader(store) as loader, pytest.raises(SnapshotInvalid, match="latents_mean"):
        loader.load(digests["sd"])


def test_a_safety_checker_and_its_image_processor_come_back(tmp_path: Path) -> None:
    """The processor is another class where torchvision is missing; the manifest has the public
    name, which loads with and without."""
    original = with_safety_checker(tiny_sd(0))
    digest = pack(original, tmp_path)
    store = SnapshotStore(tmp_path)
    manifest = store.open(digest).manifest
    (processor,) = [each for each in manifest.processors if each.name == "feature_extractor"]
    assert processor.class_path == "transformers.CLIPImageProcessor"
    with a_loader(store) as loader, loader.load(digest) as loaded:
        assert type(loaded.pipeline.feature_extractor) is type(original.feature_extractor)
        checker = tensors_of(loaded.pipeline.safety_checker)
        positions = [name for name in checker if name.endswith("position_ids")]
        assert positions
        assert not set(positions) & original.safety_checker.state_dict().keys()
        for name, tensor in tensors_of(original.safety_checker).items():
            assert torch.equal(checker[name], tensor)
        assert torch.equal(draw(loaded.pipeline), draw(original))


def test_a_second_pipeline_does_not_cast_the_modules_that_it_shares(tmp_path: Path) -> None:
    """`from_pipe` would, to float32, under the first one's feet."""
    store = SnapshotStore(tmp_path)
    half = {seed: pack(fine_tune(seed).to(torch.bfloat16), store) for seed in (1, 2)}
    with a_loader(store) as loader, loader.load(half[1]) as one:
        picture = draw(one.pipeline)
        with loader.load(half[2]) as two:
            assert two.pipeline.vae is one.pipeline.vae
            assert one.pipeline.vae.dtype == one.pipeline.text_encoder.dtype == torch.bfloat16
            draw(two.pipeline)
        assert torch.equal(draw(one.pipeline), picture)


def test_a_pipeline_with_a_lora_in_it_is_refused_with_the_way_out(tmp_path: Path) -> None:
    pipeline = tiny_sd(0)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(SnapshotInvalid, match=r"unload_lora_weights\(\)"):
        pack(pipeline, tmp_path)
    pipeline.unload_lora_weights()
    assert pack(pipeline, tmp_path) == pack(tiny_sd(0), tmp_path)


def with_ip_adapter(pipeline: Any) -> Any:
    """A random one, which takes the picture's embedding in 32 numbers."""
    image = 32
    projection = {
        "proj.weight": torch.ones(4 * CLIP_HIDDEN, image),
        "proj.bias": torch.zeros(4 * CLIP_HIDDEN),
        "norm.weight": torch.ones(CLIP_HIDDEN),
        "norm.bias": torch.zeros(CLIP_HIDDEN),
    }
    layers: dict[str, torch.Tensor] = {}
    crossing = [name for name in pipeline.unet.attn_processors if "attn2" in name]
    for index, name in enumerate(crossing):
        width = pipeline.unet.get_submodule(name.rpartition(".")[0]).to_k.out_features
        for kind in "kv":
            layers[f"{2 * index + 1}.to_{kind}_ip.weight"] = torch.ones(width, CLIP_HIDDEN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_ip_adapter(
            [{"image_proj": projection, "ip_adapter": layers}],
            subfolder=[""],
            weight_name=[""],
            image_encoder_folder=None,
        )
    return pipeline


def test_a_pipeline_with_an_ip_adapter_in_it_is_refused_with_the_way_out(tmp_path: Path) -> None:
    pipeline = with_ip_adapter(tiny_sd(0))
    with pytest.raises(SnapshotInvalid, match=r"IP-Adapter.*unload_ip_adapter\(\)"):
        pack(pipeline, tmp_path)
    pipeline.unload_ip_adapter()
    store = SnapshotStore(tmp_path)
    bare, plain = (store.open(pack(each, store)).manifest for each in (pipeline, tiny_sd(0)))
    assert bare.components == plain.components


def test_a_pipeline_knows_its_device_without_going_through_its_modules(
    store: SnapshotStore, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library looks for offloading hooks in each of thousands of modules, for each request."""
    with a_loader(store) as loader, loader.load(digests["sdxl"]) as loaded:

        def walk(_: torch.nn.Module) -> None:
            raise AssertionError("this takes milliseconds for a large model")

        monkeypatch.setattr(torch.nn.Module, "modules", walk)
        assert loaded.pipeline._execution_device == torch.device("cpu")


def test_switching_initialisation_off_never_switches_it_off_for_good() -> None:
    """In a process of its own: what matters is which library is imported first."""
    script = """
import torch
from quickthaw.snapshot.uninitialised import no_init_weights
import diffusers
with torch.device("meta"), no_init_weights():
    diffusers.AutoencoderTiny  # imported only now, with what it is built upon
from diffusers.models.modeling_utils import no_init_weights as theirs
with theirs():
    pass
layer = torch.nn.Linear(64, 64)
assert torch.nn.init.kaiming_uniform_.__name__ == "kaiming_uniform_", "off for good"
assert 0 < float(layer.weight.detach().abs().max()) <= 0.125
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
