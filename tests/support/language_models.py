"""Tiny random pipelines whose prompts one large model reads, and what they make."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from quickthaw.snapshot.processors import reading_and_seeing
from support.tiny_models import T5_HIDDEN, TEXT_TOKENS, df, ready, seeded, tf, tiny_flux, vae

PROMPT = "a red circle above a blue square"
SIDE = 32
_HIDDEN = 16
_PATCH = 4
"""Pixels of a picture that are read as one."""


def qwen_tokenizer(chat_template: str | None = None) -> Any:
    """Of single bytes, with Qwen's pattern and marks."""
    vocab = {letter: rank for rank, letter in enumerate(sorted(ByteLevel.alphabet()))}
    for special in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocab[special] = len(vocab)
    return tf.Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        model_max_length=4096,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=chat_template,
    )


def tiny_qwen_image(seed: int = 0) -> Any:
    """Qwen-Image's shape: a model that sees reads the prompt; the VAE is one of videos."""
    with seeded(seed):
        tokenizer = qwen_tokenizer()
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": _HIDDEN,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [1, 1, 2],
            },
        }
        sight = {
            "depth": 1,
            "hidden_size": _HIDDEN,
            "intermediate_size": 37,
            "num_heads": 2,
            "out_hidden_size": _HIDDEN,
        }
        encoder = tf.Qwen2_5_VLForConditionalGeneration(
            tf.Qwen2_5_VLConfig(text_config=text, vision_config=sight)
        )
        pipeline = df.QwenImagePipeline(
            transformer=df.QwenImageTransformer2DModel(
                patch_size=2,
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=_HIDDEN,
                guidance_embeds=False,
                axes_dims_rope=(8, 4, 4),
            ),
            vae=df.AutoencoderKLQwenImage(
                base_dim=12,
                z_dim=4,
                dim_mult=[1, 2, 4],
                num_res_blocks=1,
                temperal_downsample=[False, True],
                latents_mean=[0.1] * 4,
                latents_std=[1.5] * 4,
            ),
            scheduler=df.FlowMatchEulerDiscreteScheduler(),
            text_encoder=encoder,
            tokenizer=tokenizer,
        )
    return ready(pipeline)


def tiny_qwen_edit(seed: int = 0, *, of_several: bool = True) -> Any:
    """Qwen-Image-Edit's shape: what reads the prompt sees the pictures, in patches."""
    parts = tiny_qwen_image(seed).components
    tokenizer = qwen_tokenizer()
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    start, end, picture, video = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    config = parts["text_encoder"].config
    config.vision_start_token_id, config.vision_end_token_id = start, end
    config.image_token_id, config.video_token_id = picture, video
    config.text_config.vocab_size = len(tokenizer)
    config.vision_config.patch_size = _PATCH
    with seeded(seed):
        encoder = tf.Qwen2_5_VLForConditionalGeneration(config)
    sees = tf.Qwen2VLImageProcessor(
        patch_size=_PATCH, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    )
    kind = df.QwenImageEditPlusPipeline if of_several else df.QwenImageEditPipeline
    processor = reading_and_seeing(tokenizer, sees)
    return ready(kind(**{**parts, "text_encoder": encoder, "processor": processor}))


def seen_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures to edit are looked at in a 256th of the pixels, which would be a megapixel."""
    for name in ("edit", "edit_plus"):
        module = importlib.import_module(f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{name}")
        sides = module.calculate_dimensions
        fewer = functools.partial(lambda known, area, ratio: known(area / 256, ratio), sides)
        monkeypatch.setattr(module, "calculate_dimensions", fewer)


PUBLISHED_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""It says what the family's own says, in other words."""


def tiny_z_image(seed: int = 0, chat_template: str = PUBLISHED_TEMPLATE) -> Any:
    """Z-Image's shape: a language model reads the prompt as a message, Flux's VAE."""
    with seeded(seed):
        tokenizer = qwen_tokenizer(chat_template)
        encoder = tf.Qwen3Model(
            tf.Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=_HIDDEN,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=8,
                max_position_embeddings=1024,
            )
        )
        pipeline = df.ZImagePipeline(
            transformer=df.ZImageTransformer2DModel(
                in_channels=4,
                dim=32,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=_HIDDEN,
                axes_dims=[8, 4, 4],
                axes_lens=[1024, 64, 64],
            ),
            vae=vae(
                shift_factor=0.1159,
                scaling_factor=0.3611,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            scheduler=df.FlowMatchEulerDiscreteScheduler(shift=3.0),
            text_encoder=encoder,
            tokenizer=tokenizer,
        )
    return ready(pipeline)


def tiny_chroma(seed: int = 0) -> Any:
    """Chroma's shape: Flux's parts but for CLIP, around a transformer of its own."""
    parts = tiny_flux(seed).components
    with seeded(seed):
        transformer = df.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=T5_HIDDEN,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        )
    pipeline = df.ChromaPipeline(
        transformer=transformer,
        vae=parts["vae"],
        scheduler=parts["scheduler"],
        text_encoder=parts["text_encoder_2"],
        tokenizer=parts["tokenizer_2"],
    )
    return ready(pipeline)


BUILDERS: Mapping[str, Callable[[int], Any]] = {
    "chroma": tiny_chroma,
    "qwen_image": tiny_qwen_image,
    "z_image": tiny_z_image,
}
_GUIDED: Mapping[str, dict[str, Any]] = {
    "chroma": {"guidance_scale": 4.0, "max_sequence_length": TEXT_TOKENS},
    "qwen_image": {"true_cfg_scale": 4.0, "max_sequence_length": 1024},
    "z_image": {"guidance_scale": 4.0},
}


def make(
    pipeline: Any, family: str, seeds: tuple[int, ...] = (7,), negative: str = " ", **given: Any
) -> torch.Tensor:
    """What diffusers' own pipeline makes in two steps: (pictures, 3, height, width) in 0..1."""
    pipeline.set_progress_bar_config(disable=True)
    asked = {"prompt": PROMPT, "negative_prompt": negative, "height": SIDE, "width": SIDE}
    made = pipeline(
        **{**asked, **_GUIDED[family], **given},
        num_inference_steps=2,
        num_images_per_prompt=len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    )
    found: torch.Tensor = made.images
    return found
