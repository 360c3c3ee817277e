"""A Flux of modest size that can really be run on a CPU: the real classes, random weights.

Weights are drawn as the libraries draw them before training, so numbers stay in a trained model's
range; what a picture shows is noise.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

# Neither library types its constructors.
df: Any = diffusers
tf: Any = transformers

HEAD = 64
CLIP_HIDDEN = 256
T5_HIDDEN = 512


def modest_flux(*, heads: int = 8, double: int = 4, single: int = 8, seed: int = 0) -> Any:
    """In bfloat16; 71 million parameters in its transformer as it is."""
    df.utils.logging.set_verbosity_error()
    tf.utils.logging.set_verbosity_error()
    tokenizer = _clip_tokenizer()
    tokenizer_2 = tf.T5TokenizerFast(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
        + [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz"],
        extra_ids=0,
        model_max_length=128,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = df.FluxPipeline(
            scheduler=df.FlowMatchEulerDiscreteScheduler(),
            text_encoder=tf.CLIPTextModel(_clip_config(len(tokenizer))),
            tokenizer=tokenizer,
            text_encoder_2=tf.T5EncoderModel(
                tf.T5Config(
                    vocab_size=len(tokenizer_2),
                    d_model=T5_HIDDEN,
                    d_kv=64,
                    d_ff=2 * T5_HIDDEN,
                    num_layers=4,
                    num_heads=8,
                    feed_forward_proj="gated-gelu",
                )
            ),
            tokenizer_2=tokenizer_2,
            transformer=df.FluxTransformer2DModel(
                in_channels=16,
                num_layers=double,
                num_single_layers=single,
                attention_head_dim=HEAD,
                num_attention_heads=heads,
                joint_attention_dim=T5_HIDDEN,
                pooled_projection_dim=CLIP_HIDDEN,
                axes_dims_rope=(8, 28, 28),
                guidance_embeds=True,
            ),
            vae=df.AutoencoderKL(
                block_out_channels=(16, 32, 32, 64),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                norm_num_groups=16,
                sample_size=256,
                shift_factor=0.1,
                scaling_factor=0.4,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False).to(torch.bfloat16)
    return pipeline


def _clip_tokenizer() -> Any:
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: rank for rank, piece in enumerate(pieces)}
    return tf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _clip_config(words: int) -> Any:
    return tf.CLIPTextConfig(
        vocab_size=words,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
        hidden_size=CLIP_HIDDEN,
        intermediate_size=4 * CLIP_HIDDEN,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=77,
    )
