"""Pipelines of a hundred tensors: everything there is in a snapshot, and as little of it as works.

Smaller than `tiny_models`, which can draw; these only need to load, a hundred thousand times.
"""

from __future__ import annotations

from typing import Any

import diffusers
import transformers

from support.tiny_models import clip_tokenizer, seeded, t5_tokenizer

# Neither library types its constructors.
df: Any = diffusers
tf: Any = transformers


def micro_sd(words: int = 0, seed: int = 0) -> Any:
    """`words`: rows of the text encoder's table, where it should be large."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        return df.StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=_clip(tokenizer, words),
            tokenizer=tokenizer,
            unet=df.UNet2DConditionModel(
                block_out_channels=(8,),
                layers_per_block=1,
                norm_num_groups=2,
                sample_size=8,
                down_block_types=("DownBlock2D",),
                up_block_types=("UpBlock2D",),
                cross_attention_dim=8,
                attention_head_dim=4,
            ),
            scheduler=df.DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=tf.CLIPImageProcessorPil(),
            requires_safety_checker=False,
        )


def micro_flux() -> Any:
    """T5 brings tied weights, a Unigram tokenizer and another kind of config."""
    with seeded(0):
        tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
        return df.FluxPipeline(
            vae=_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
            text_encoder=_clip(tokenizer),
            text_encoder_2=tf.T5EncoderModel(
                tf.T5Config(
                    vocab_size=len(tokenizer_2),
                    d_model=8,
                    d_kv=4,
                    d_ff=9,
                    num_layers=1,
                    num_heads=2,
                    feed_forward_proj="gated-gelu",
                )
            ),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            transformer=df.FluxTransformer2DModel(
                patch_size=1,
                in_channels=4,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=1,
                joint_attention_dim=8,
                pooled_projection_dim=8,
                axes_dims_rope=(4, 4, 8),
            ),
            scheduler=df.FlowMatchEulerDiscreteScheduler(),
        )


def _vae(**settings: Any) -> Any:
    return df.AutoencoderKL(
        block_out_channels=(4,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=1,
        norm_num_groups=2,
        sample_size=8,
        # Its latents are as large as its pictures: attention over them is most of a pack's time.
        mid_block_add_attention=False,
        **settings,
    )


def _clip(tokenizer: Any, words: int = 0) -> Any:
    return tf.CLIPTextModel(
        tf.CLIPTextConfig(
            vocab_size=max(words, len(tokenizer)),
            hidden_size=8,
            intermediate_size=9,  # odd, so that pads are needed
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
