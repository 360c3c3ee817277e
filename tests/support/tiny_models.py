"""Tiny random pipelines of each family: the real classes in their smallest working shapes.

Everything is built in memory, offline and in milliseconds, tokenizers included, so that tests take
the path of a real model. Weights depend on `seed` alone. The pictures are noise; what matters is
that they are reproducible and never NaN.
"""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

# Neither library types its constructors.
df: Any = diffusers
tf: Any = transformers


CORPUS = (
    "a red circle above a blue square on a white background",
    "a green triangle left of a yellow star on a black background",
    "an astronaut riding a horse through a forest at night",
)
TEXT_TOKENS = 16
CLIP_HIDDEN = 32
T5_HIDDEN = 32

MERGES = 60


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights are drawn from torch's global generator; leave the caller's state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """A byte-level BPE with CLIP's conventions."""
    letters = sorted(ByteLevel.alphabet())
    merges = _merges(Counter(word for line in CORPUS for word in line.split()))
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += [left + right for left, right in merges]
    vocab = {piece: rank for rank, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return tf.CLIPTokenizer(
        vocab=vocab, merges=merges, model_max_length=TEXT_TOKENS, pad_token=pad_token
    )


def _merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair training. The library's own trainer breaks ties differently from run to run."""
    parts = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    for _ in range(MERGES):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(parts[word]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        parts = {word: _merged(pieces, best) for word, pieces in parts.items()}
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for piece in pieces:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return found


def t5_tokenizer() -> Any:
    words = sorted({word for line in CORPUS for word in line.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [("▁" + word, -4.0) for word in words] + [(letter, -8.0) for letter in letters]
    return tf.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def clip_config(tokenizer: Any, **overrides: Any) -> Any:
    shape = {
        "hidden_size": CLIP_HIDDEN,
        "intermediate_size": 37,  # odd on purpose: its biases need padding in a snapshot
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_TOKENS,
    }
    return tf.CLIPTextConfig(
        vocab_size=len(tokenizer),
        # Pooling looks for this id, so it has to be the tokenizer's real one.
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{**shape, **overrides},
    )


def vae(**overrides: Any) -> Any:
    return df.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=4,
        sample_size=32,
        **{"latent_channels": 4, **overrides},
    )


def tiny_sd(seed: int = 0) -> Any:
    """Stable Diffusion 1.5's shape; draws 32×32 by default."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        unet = df.UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=16,
            in_channels=4,
            out_channels=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=CLIP_HIDDEN,
        )
        pipeline = df.StableDiffusionPipeline(
            vae=vae(),
            text_encoder=tf.CLIPTextModel(clip_config(tokenizer)),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=df.DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return ready(pipeline)


def tiny_sdxl(seed: int = 0) -> Any:
    """SDXL's shape: two text encoders, pooled embedding, size conditioning."""
    with seeded(seed):
        tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer(pad_token="!")
        unet = df.UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=16,
            in_channels=4,
            out_channels=4,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=6 * 8 + CLIP_HIDDEN,
            cross_attention_dim=2 * CLIP_HIDDEN,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
        pipeline = df.StableDiffusionXLPipeline(
            vae=vae(),
            text_encoder=tf.CLIPTextModel(clip_config(tokenizer)),
            text_encoder_2=tf.CLIPTextModelWithProjection(
                clip_config(tokenizer_2, hidden_act="gelu", projection_dim=CLIP_HIDDEN)
            ),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=df.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012),
        )
    return ready(pipeline)


def tiny_flux(seed: int = 0, *, guidance_embeds: bool = True) -> Any:
    """Flux dev's shape (`guidance_embeds=False`: schnell's); T5 brings tied weights."""
    with seeded(seed):
        tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
        transformer = df.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=T5_HIDDEN,
            pooled_projection_dim=CLIP_HIDDEN,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        )
        pipeline = df.FluxPipeline(
            vae=vae(
                shift_factor=0.0609,
                scaling_factor=0.3611,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=tf.CLIPTextModel(clip_config(tokenizer)),
            text_encoder_2=tf.T5EncoderModel(
                tf.T5Config(
                    vocab_size=len(tokenizer_2),
                    d_model=T5_HIDDEN,
                    d_kv=8,
                    d_ff=37,
                    num_layers=2,
                    num_heads=4,
                    feed_forward_proj="gated-gelu",
                )
            ),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            transformer=transformer,
            scheduler=df.FlowMatchEulerDiscreteScheduler(),
        )
    return ready(pipeline)


def with_safety_checker(pipeline: Any, seed: int = 0) -> Any:
    """`pipeline`, Stable Diffusion's, with what looks at its pictures; it finds none unsafe."""
    checker: Any = importlib.import_module("diffusers.pipelines.stable_diffusion.safety_checker")
    with seeded(seed):
        shape = {
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        config = tf.CLIPConfig(
            text_config=shape,
            vision_config={**shape, "image_size": 32, "patch_size": 8},
            projection_dim=32,
        )
        parts = {**pipeline.components, "requires_safety_checker": True}
        parts["safety_checker"] = checker.StableDiffusionSafetyChecker(config)
        size = {"height": 32, "width": 32}
        parts["feature_extractor"] = tf.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size=size
        )
    return ready(type(pipeline)(**parts))


def ready(pipeline: Any) -> Any:
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
