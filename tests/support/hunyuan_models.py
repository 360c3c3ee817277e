"""Tiny random pipelines of HunyuanVideo's shape, with a tokenizer of Llama 3's."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from diffusers.pipelines.hunyuan_video import (
    pipeline_hunyuan_video,
    pipeline_hunyuan_video_image2video,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from support.tiny_models import (
    CLIP_HIDDEN,
    CORPUS,
    clip_config,
    clip_tokenizer,
    df,
    ready,
    seeded,
    tf,
)

_TEMPLATES = tuple(
    str(module.DEFAULT_PROMPT_TEMPLATE["template"])
    for module in (pipeline_hunyuan_video, pipeline_hunyuan_video_image2video)
)
BEFORE_PROMPT = _TEMPLATES[0].partition("{}")[0]
_BEGIN = "<|begin_of_text|>"
_MARKS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>", "<pad>")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CLIP_TOKENS = 77
"""Whatever its tokenizer says, the pipeline pads to so many."""
_HIDDEN = 16
_SEEN = 96
"""Pixels a side of what the language model sees, in patches: the pipeline goes by how many."""
_PATCHES_A_SIDE = 24


def llama_tokenizer() -> Any:
    """Of bytes; whole words are those of the templates, which are common, and of the corpus."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    messages = (re.split(r"<\|\w+\|>|<image>|\{\}", each) for each in _TEMPLATES)
    texts = [*itertools.chain(*messages), *CORPUS]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: rank for rank, piece in enumerate(dict.fromkeys([*letters, *words]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.add_special_tokens([_BEGIN, *_MARKS])
    begin = tokenizer.token_to_id(_BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", special_tokens=[(_BEGIN, begin)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token="<|end_of_text|>",
        pad_token="<pad>",
        padding_side="right",
        model_max_length=1024,
    )


def saved_by_older(pipeline: Any, folder: Path) -> Path:
    """The pipeline's folder as transformers 4 saved it: its tokenizer under Llama's name."""
    pipeline.save_pretrained(folder)
    for path in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        text = path.read_text()
        for name in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            text = text.replace(name, "LlamaTokenizerFast")
        path.write_text(text)
    return folder


def _llama(tokenizer: Any) -> Any:
    return tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _transformer(**given: Any) -> Any:
    shape = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 2,
        "patch_size_t": 1,
        "text_embed_dim": _HIDDEN,
        "pooled_projection_dim": CLIP_HIDDEN,
        "rope_axes_dim": (4, 6, 6),
    }
    return df.HunyuanVideoTransformer3DModel(**{**shape, **given})


def tiny_hunyuan(seed: int = 0, *, guidance_embeds: bool = True) -> Any:
    """HunyuanVideo's shape; `guidance_embeds=False`: as some that were trained on from it."""
    with seeded(seed):
        tokenizer, tokenizer_2 = llama_tokenizer(), clip_tokenizer()
        tokenizer_2.model_max_length = _CLIP_TOKENS
        pipeline = df.HunyuanVideoPipeline(
            text_encoder=tf.LlamaModel(_llama(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=tf.CLIPTextModel(
                clip_config(tokenizer_2, max_position_embeddings=_CLIP_TOKENS)
            ),
            tokenizer_2=tokenizer_2,
            transformer=_transformer(guidance_embeds=guidance_embeds),
            vae=df.AutoencoderKLHunyuanVideo(
                latent_channels=4,
                block_out_channels=(8, 8, 8, 8),
                layers_per_block=1,
                norm_num_groups=4,
            ),
            scheduler=df.FlowMatchEulerDiscreteScheduler(shift=7.0),
        )
    return ready(pipeline)


def tiny_hunyuan_i2v(seed: int = 0, *, beside: bool = False) -> Any:
    """The shape of those that begin with a picture; `beside`: of the first release, which has the
    picture's latents beside those it makes, and not in their place."""
    parts = tiny_hunyuan(seed).components
    tokenizer = llama_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    sight = tf.CLIPVisionConfig(
        hidden_size=_HIDDEN,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=_SEEN,
        patch_size=_SEEN // _PATCHES_A_SIDE,
    )
    with seeded(seed):
        parts |= {
            "tokenizer": tokenizer,
            "text_encoder": tf.LlavaForConditionalGeneration(
                tf.LlavaConfig(
                    vision_config=sight,
                    text_config=_llama(tokenizer),
                    image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
                    image_seq_length=_PATCHES_A_SIDE**2,
                    vision_feature_layer=-1,
                    pad_token_id=tokenizer.pad_token_id,
                )
            ),
            "transformer": _transformer(
                in_channels=2 * 4 + 1 if beside else 4,
                guidance_embeds=not beside,
                image_condition_type="latent_concat" if beside else "token_replace",
            ),
        }
    size = {"height": _SEEN, "width": _SEEN}
    sees = tf.CLIPImageProcessor(size={"shortest_edge": _SEEN}, crop_size=size)
    return ready(df.HunyuanVideoImageToVideoPipeline(**parts, image_processor=sees))
