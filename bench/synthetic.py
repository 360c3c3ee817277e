"""A model with SDXL's structure and real tensor count, scaled to a size; its weights are random.

The real classes, built without initialisation: what loading costs depends on how many tensors
there are and how large, not on what is in them.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from quickthaw.snapshot.uninitialised import no_init_weights

# Neither library types its constructors.
df: Any = diffusers
tf: Any = transformers

_CHANNEL_STEP = 32
_HEAD = 32
_VOCABULARY = 1024


def sdxl_like(size_bytes: int, *, seed: int = 0) -> Any:
    """The largest such pipeline in float16 that takes no more than `size_bytes` (at least 0.1 GB).

    SDXL's own has a width of 320 channels and 2,641 tensors; the width is what is scaled.
    """
    df.utils.logging.set_verbosity_error()  # about casts that are as they should be here
    df.utils.logging.disable_progress_bar()
    tf.utils.logging.disable_progress_bar()
    width = _CHANNEL_STEP
    with torch.device("meta"), no_init_weights():
        while _nbytes(_modules(width + _CHANNEL_STEP)) <= size_bytes:
            width += _CHANNEL_STEP
    with no_init_weights():
        modules = _modules(width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in modules.values():
            module.eval().requires_grad_(False).to(torch.float16)
            for parameter in module.parameters():
                # Small and finite: packing fits the preview map to the VAE.
                parameter.data.uniform_(-0.02, 0.02)
    tokenizer = _tokenizer()
    return df.StableDiffusionXLPipeline(
        **modules,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=df.EulerDiscreteScheduler(),
    )


def _nbytes(modules: dict[str, Any]) -> int:
    return sum(2 * each.numel() for module in modules.values() for each in module.parameters())


def _modules(width: int) -> dict[str, Any]:
    clip, big_clip = 2 * width, 4 * width
    return {
        "text_encoder": tf.CLIPTextModel(_clip(clip, layers=12)),
        "text_encoder_2": tf.CLIPTextModelWithProjection(
            _clip(big_clip, layers=32, projection_dim=big_clip, hidden_act="gelu")
        ),
        "unet": df.UNet2DConditionModel(
            block_out_channels=(width, 2 * width, 4 * width),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(width // _HEAD, 2 * width // _HEAD, 4 * width // _HEAD),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=6 * 32 + big_clip,
            cross_attention_dim=clip + big_clip,
            sample_size=64,
        ),
        "vae": df.AutoencoderKL(
            block_out_channels=(32, 64, 128, 128),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=32,
            sample_size=512,
        ),
    }


def _clip(hidden: int, *, layers: int, **more: Any) -> Any:
    return tf.CLIPTextConfig(
        vocab_size=_VOCABULARY,
        bos_token_id=_VOCABULARY - 2,
        eos_token_id=_VOCABULARY - 1,
        pad_token_id=_VOCABULARY - 1,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // _HEAD,
        max_position_embeddings=77,
        **more,
    )


def _tokenizer() -> Any:
    """A byte-level one without merges: tokenizers are prepared ahead and not what is measured."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: rank for rank, piece in enumerate(pieces)}
    return tf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
