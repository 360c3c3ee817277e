"""Tiny random pipelines of Flux 2, whose language models are deep and narrow: thoughts are taken
from layers in their middle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from support.language_models import PUBLISHED_TEMPLATE, qwen_tokenizer
from support.tiny_models import df, ready, seeded, tf

_HIDDEN = 8
KLEIN_TEMPLATE = PUBLISHED_TEMPLATE.replace(
    "assistant\\n'", "assistant\\n' + ('' if enable_thinking else '<think>\\n\\n</think>\\n\\n')"
)
MISTRAL_TEMPLATE = (
    "{{- bos_token }}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '[SYSTEM_PROMPT]' + messages[0]['content'][0]['text'] + '[/SYSTEM_PROMPT]' }}"
    "{%- endif %}"
    "{%- for message in messages[1:] %}{{- '[INST]' }}"
    "{%- for block in message['content'] %}{{- block['text'] }}{%- endfor %}{{- '[/INST]' }}"
    "{%- endfor %}"
)
_MISTRAL_MARKS = (
    *("<unk>", "<s>", "</s>", "<pad>"),
    *("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)


def mistral_tokenizer() -> Any:
    """Of single bytes, with Mistral's marks; it has its tokenizer.json and nothing else."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: rank for rank, piece in enumerate((*_MISTRAL_MARKS, *letters))}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        additional_special_tokens=[*_MISTRAL_MARKS[4:]],
        chat_template=MISTRAL_TEMPLATE,
    )


def _reading(layers: int, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": _HIDDEN,
        "intermediate_size": 13,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 1024,
    }


def _drawing(**given: Any) -> dict[str, Any]:
    return {
        "transformer": df.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * _HIDDEN,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            **given,
        ),
        "vae": df.AutoencoderKLFlux2(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        ),
        "scheduler": df.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def _experienced(pipeline: Any) -> Any:
    """Its VAE has seen latents and knows how they are spread."""
    spread = pipeline.vae.bn
    spread.running_mean.uniform_(-0.5, 0.5)
    spread.running_var.uniform_(0.5, 2.0)
    return ready(pipeline)


def tiny_flux2(seed: int = 0) -> Any:
    """Flux 2's shape: of a model that sees, what reads is used."""
    with seeded(seed):
        tokenizer = mistral_tokenizer()
        sight = {
            "hidden_size": 8,
            "intermediate_size": 13,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 4,
            "image_size": 32,
            "patch_size": 8,
        }
        encoder = tf.Mistral3ForConditionalGeneration(
            tf.Mistral3Config(
                text_config=tf.MistralConfig(**_reading(31, tokenizer)),
                vision_config=tf.PixtralVisionConfig(**sight),
                image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
            )
        )
        return _experienced(
            df.Flux2Pipeline(**_drawing(), text_encoder=encoder, tokenizer=tokenizer)
        )


def tiny_klein(seed: int = 0, *, distilled: bool = False) -> Any:
    """Klein's shape: a smaller model reads, whose words are its thoughts' tied weights."""
    with seeded(seed):
        tokenizer = qwen_tokenizer(KLEIN_TEMPLATE)
        config = tf.Qwen3Config(**_reading(28, tokenizer), tie_word_embeddings=True)
        return _experienced(
            df.Flux2KleinPipeline(
                **_drawing(guidance_embeds=False),
                text_encoder=tf.Qwen3ForCausalLM(config),
                tokenizer=tokenizer,
                is_distilled=distilled,
            )
        )


BUILDERS: Mapping[str, Callable[[int], Any]] = {"flux2": tiny_flux2, "flux2_klein": tiny_klein}
PROMPT = "a red circle above a blue square"
SIDE = 32


def reference() -> Image.Image:
    """Of another shape than what is drawn."""
    return Image.linear_gradient("L").resize((96, 64)).convert("RGB")


def make(pipeline: Any, seeds: tuple[int, ...] = (7,), **given: Any) -> torch.Tensor:
    """What diffusers' own pipeline makes in two steps: (pictures, 3, height, width) in 0..1."""
    pipeline.set_progress_bar_config(disable=True)
    asked = {"prompt": PROMPT, "height": SIDE, "width": SIDE, "guidance_scale": 4.0}
    made = pipeline(
        **{**asked, **given},
        num_inference_steps=2,
        num_images_per_prompt=len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    )
    found: torch.Tensor = made.images
    return found
