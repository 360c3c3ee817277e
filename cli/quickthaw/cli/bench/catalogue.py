"""Models of the usual sizes: the real classes with their published shapes, without weights.

What loading costs depends on how many tensors there are and how large, not on what is in them. A
smaller machine gets the same model made narrower: the number of tensors stays, their sizes shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from quickthaw.snapshot.manifest import Kind
from quickthaw.snapshot.uninitialised import no_init_weights

# Neither library types its constructors.
df: Any = diffusers
tf: Any = transformers

Built = dict[str, tuple[Kind, nn.Module]]
"""Components by name, in load order."""

_WIDTHS = 64
"""Steps between the narrowest model and the real one."""
_CLIP_TOKENS = 77


@dataclass(frozen=True, slots=True)
class SyntheticModel:
    """A pipeline of one size. `build` takes the width, over 0 to 1, and gives meta modules."""

    name: str
    title: str
    pipeline_class: str
    family: str
    dtype: torch.dtype
    scheduler: str
    tokenizers: tuple[str, ...]
    build: Callable[[float], Built]
    eight_bit: frozenset[str] = frozenset()
    """Components whose matrices are stored in `float8_e4m3fn`."""
    image_processor: bool = False

    @property
    def scheduler_arguments(self) -> dict[str, Any]:
        """What the pipeline would otherwise warn about at each load."""
        return {"steps_offset": 1} if self.scheduler == _EULER else {}

    def modules(self, width: float) -> Built:
        with torch.device("meta"), no_init_weights():
            return self.build(width)

    def dtype_of(self, component: str, tensor: torch.Tensor) -> torch.dtype:
        """What a tensor of that component is stored as."""
        if not tensor.is_floating_point():
            return tensor.dtype
        if component in self.eight_bit and tensor.ndim > 1:
            return torch.float8_e4m3fn
        return self.dtype

    def nbytes(self, width: float) -> int:
        return sum(
            each.numel() * self.dtype_of(name, each).itemsize
            for name, (_, module) in self.modules(width).items()
            for each in (*module.parameters(), *module.buffers())
        )

    def width_for(self, nbytes_max: int) -> float:
        """The widest that takes no more than `nbytes_max`; the narrowest, if none does."""
        low, high = 1, _WIDTHS
        while low < high:
            middle = (low + high + 1) // 2
            if self.nbytes(middle / _WIDTHS) <= nbytes_max:
                low = middle
            else:
                high = middle - 1
        return low / _WIDTHS


def _scaled(full: int, width: float, step: int) -> int:
    """`full` times `width` in whole steps, at least one."""
    return max(round(full * width / step), 1) * step


def _clip(width: float, *, full: int = 768, layers: int = 12, **more: Any) -> Any:
    hidden = _scaled(full, width, 64)
    words = _scaled(49_408, width, 1024)
    return tf.CLIPTextConfig(
        vocab_size=words,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=_CLIP_TOKENS,
        **more,
    )


def _vae_blocks(width: float) -> dict[str, Any]:
    base = _scaled(128, width, 32)
    return {"block_out_channels": (base, 2 * base, 4 * base, 4 * base), "layers_per_block": 2}


def _vae(width: float, **more: Any) -> nn.Module:
    module: nn.Module = df.AutoencoderKL(
        **_vae_blocks(width),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **more,
    )
    return module


def _sd15(width: float) -> Built:
    text = _clip(width)
    base = _scaled(320, width, 32)
    unet = df.UNet2DConditionModel(
        block_out_channels=(base, 2 * base, 4 * base, 4 * base),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=text.hidden_size,
        sample_size=64,
    )
    return {
        "text_encoder": (Kind.TEXT_ENCODER, tf.CLIPTextModel(text)),
        "unet": (Kind.DENOISER, unet),
        "vae": (Kind.VAE, _vae(width, latent_channels=4, sample_size=512)),
    }


def _sdxl(width: float) -> Built:
    small = _clip(width)
    large = _clip(width, full=1280, layers=32, hidden_act="gelu")
    large.projection_dim = large.hidden_size
    base = _scaled(320, width, 64)
    unet = df.UNet2DConditionModel(
        block_out_channels=(base, 2 * base, 4 * base),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(base // 64, base // 32, base // 16),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + large.hidden_size,
        cross_attention_dim=small.hidden_size + large.hidden_size,
        sample_size=128,
    )
    return {
        "text_encoder": (Kind.TEXT_ENCODER, tf.CLIPTextModel(small)),
        "text_encoder_2": (Kind.TEXT_ENCODER, tf.CLIPTextModelWithProjection(large)),
        "unet": (Kind.DENOISER, unet),
        "vae": (Kind.VAE, _vae(width, latent_channels=4, sample_size=1024)),
    }


def _flux(width: float) -> Built:
    clip = _clip(width)
    t5 = tf.T5Config(
        vocab_size=_scaled(32_128, width, 128),
        d_model=_scaled(4096, width, 64),
        d_kv=64,
        d_ff=_scaled(10_240, width, 64),
        num_heads=_scaled(64, width, 1),
        num_layers=24,
        feed_forward_proj="gated-gelu",
    )
    transformer = df.FluxTransformer2DModel(
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=_scaled(24, width, 1),
        joint_attention_dim=t5.d_model,
        pooled_projection_dim=clip.hidden_size,
        guidance_embeds=True,
    )
    vae = _vae(
        width,
        latent_channels=16,
        sample_size=1024,
        shift_factor=0.1159,
        scaling_factor=0.3611,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return {
        "text_encoder": (Kind.TEXT_ENCODER, tf.CLIPTextModel(clip)),
        "text_encoder_2": (Kind.TEXT_ENCODER, tf.T5EncoderModel(t5)),
        "transformer": (Kind.DENOISER, transformer),
        "vae": (Kind.VAE, vae),
    }


def _svd(width: float) -> Built:
    hidden = _scaled(1280, width, 80)
    image = tf.CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=32,
        num_attention_heads=hidden // 80,
        image_size=224,
        patch_size=14,
        projection_dim=_scaled(1024, width, 64),
        hidden_act="gelu",
    )
    base = _scaled(320, width, 64)
    unet = df.UNetSpatioTemporalConditionModel(
        block_out_channels=(base, 2 * base, 4 * base, 4 * base),
        num_attention_heads=(base // 64, base // 32, base // 16, base // 16),
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=768,
        cross_attention_dim=image.projection_dim,
        num_frames=25,
        sample_size=96,
    )
    vae = df.AutoencoderKLTemporalDecoder(
        **_vae_blocks(width),
        down_block_types=("DownEncoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=768,
    )
    return {
        "image_encoder": (Kind.IMAGE_ENCODER, tf.CLIPVisionModelWithProjection(image)),
        "unet": (Kind.DENOISER, unet),
        "vae": (Kind.VAE, vae),
    }


_CLIP_TOKENIZER = ("transformers.CLIPTokenizer",)
_TWO_CLIPS = ("transformers.CLIPTokenizer", "transformers.CLIPTokenizer")
_CLIP_AND_T5 = ("transformers.CLIPTokenizer", "transformers.T5Tokenizer")
_EULER, _FLOW = "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"
_SD, _XL = "diffusers.StableDiffusionPipeline", "diffusers.StableDiffusionXLPipeline"
_FLUX, _SVD = "diffusers.FluxPipeline", "diffusers.StableVideoDiffusionPipeline"
_HALF, _BRAIN = torch.float16, torch.bfloat16
_LARGE = frozenset({"transformer", "text_encoder_2"})

MODELS: Mapping[str, SyntheticModel] = {
    each.name: each
    for each in (
        SyntheticModel("sd15", "SD 1.5", _SD, "sd", _HALF, _EULER, _CLIP_TOKENIZER, _sd15),
        SyntheticModel("sdxl", "SDXL", _XL, "sdxl", _HALF, _EULER, _TWO_CLIPS, _sdxl),
        SyntheticModel("flux", "Flux bf16", _FLUX, "flux", _BRAIN, _FLOW, _CLIP_AND_T5, _flux),
        SyntheticModel(
            "flux-fp8", "Flux fp8", _FLUX, "flux", _BRAIN, _FLOW, _CLIP_AND_T5, _flux, _LARGE
        ),
        SyntheticModel("svd", "SVD", _SVD, "svd", _HALF, _EULER, (), _svd, image_processor=True),
    )
}
