"""Tiny random pipelines of what begins with pictures, in the parts of those that draw from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image

from support.hunyuan_models import tiny_hunyuan_i2v
from support.language_models import tiny_qwen_edit
from support.other_models import tiny_ltx, tiny_wan
from support.tiny_models import (
    CLIP_HIDDEN,
    T5_HIDDEN,
    TEXT_TOKENS,
    df,
    ready,
    seeded,
    tf,
    tiny_flux,
    tiny_sd,
    tiny_sdxl,
)

_SEEN = 32
"""Side of the pictures that the image encoder sees."""
_PATCHES = (_SEEN // 8) ** 2 + 1


def _with(pipeline: Any, kind: Any, **parts: Any) -> Any:
    """`pipeline`'s parts, and those that replace some, in a pipeline of another kind."""
    return ready(kind(**{**pipeline.components, **parts}))


def tiny_kontext(seed: int = 0) -> Any:
    """Flux Kontext's shape: the picture's latents are more tokens for Flux's transformer."""
    return _with(tiny_flux(seed), df.FluxKontextPipeline)


def tiny_fill(seed: int = 0) -> Any:
    """Flux Fill's shape: the mask and what it leaves are more channels of each token."""
    base = tiny_flux(seed)
    latents, mask = 16, 2 * 2 * 4
    with seeded(seed):
        transformer = df.FluxTransformer2DModel(
            patch_size=1,
            in_channels=latents + latents + mask,
            out_channels=latents,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=T5_HIDDEN,
            pooled_projection_dim=CLIP_HIDDEN,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
    parts = {
        name: part
        for name, part in base.components.items()
        if name not in ("image_encoder", "feature_extractor")
    }
    return ready(df.FluxFillPipeline(**{**parts, "transformer": transformer}))


def _wide(unet: Any, seed: int) -> Any:
    """The same with the mask, and what it leaves, beside the latents."""
    with seeded(seed):
        return type(unet).from_config({**unet.config, "in_channels": 9})


def tiny_sd_inpaint(seed: int = 0) -> Any:
    base = tiny_sd(seed)
    kind = df.StableDiffusionInpaintPipeline
    parts = {**base.components, "unet": _wide(base.unet, seed)}
    return ready(kind(**parts, requires_safety_checker=False))


def tiny_sdxl_inpaint(seed: int = 0) -> Any:
    base = tiny_sdxl(seed)
    return _with(base, df.StableDiffusionXLInpaintPipeline, unet=_wide(base.unet, seed))


def _wan_transformer(**given: Any) -> Any:
    shape = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16 + 16 + 4,
        "out_channels": 16,
        "text_dim": T5_HIDDEN,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }
    return df.WanTransformer3DModel(**{**shape, **given})


def _wan_parts(seed: int) -> dict[str, Any]:
    parts = dict(tiny_wan(seed).components)
    return {name: part for name, part in parts.items() if name != "transformer_2"}


def tiny_wan_i2v(seed: int = 0, *, to_last: bool = False) -> Any:
    """Wan 2.1's shape, where CLIP sees the picture too; `to_last`: and the one at the end."""
    parts = _wan_parts(seed)
    with seeded(seed):
        seen = {"size": {"height": _SEEN, "width": _SEEN}, "do_center_crop": False}
        parts |= {
            "image_encoder": tf.CLIPVisionModel(
                tf.CLIPVisionConfig(
                    hidden_size=16,
                    intermediate_size=37,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    image_size=_SEEN,
                    patch_size=8,
                )
            ),
            "image_processor": tf.CLIPImageProcessor(**seen),
            "transformer": _wan_transformer(
                image_dim=16,
                added_kv_proj_dim=24,
                pos_embed_seq_len=2 * _PATCHES if to_last else None,
            ),
        }
    return ready(df.WanImageToVideoPipeline(**parts))


def tiny_wan_i2v_experts(seed: int = 0) -> Any:
    """Wan 2.2's: two transformers, and the picture as latents only."""
    parts = _wan_parts(seed)
    with seeded(seed):
        parts |= {"transformer": _wan_transformer(), "transformer_2": _wan_transformer()}
    return ready(df.WanImageToVideoPipeline(**parts, boundary_ratio=0.9))


def tiny_wan_both(seed: int = 0) -> Any:
    """Wan 2.2's small model: from a text, and from a picture by the other pipeline."""
    return ready(df.WanPipeline(**_wan_parts(seed), expand_timesteps=True))


def tiny_ltx_condition(seed: int = 0) -> Any:
    """LTX-Video's later releases, which begin and end with what is given."""
    scheduler = df.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False)
    return _with(tiny_ltx(seed), df.LTXConditionPipeline, scheduler=scheduler)


BUILDERS: Mapping[str, Callable[[int], Any]] = {
    "flux_kontext": tiny_kontext,
    "flux_fill": tiny_fill,
    "sd_inpaint": tiny_sd_inpaint,
    "sdxl_inpaint": tiny_sdxl_inpaint,
    "qwen_image_edit": tiny_qwen_edit,
    "qwen_image_edit-first": lambda seed: tiny_qwen_edit(seed, of_several=False),
    "wan_i2v": tiny_wan_i2v,
    "wan_i2v-to-last": lambda seed: tiny_wan_i2v(seed, to_last=True),
    "wan_i2v-experts": tiny_wan_i2v_experts,
    "wan-both": tiny_wan_both,
    "ltx": tiny_ltx,
    "ltx-condition": tiny_ltx_condition,
    "hunyuan_video_i2v": tiny_hunyuan_i2v,
    "hunyuan_video_i2v-first": lambda seed: tiny_hunyuan_i2v(seed, beside=True),
}
"""By family, and what tells models of one family apart."""

SIDE = 32
FRAMES = 9
PROMPT = "a red circle above a blue square"


def first_picture() -> Image.Image:
    return Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")


def last_picture() -> Image.Image:
    return Image.radial_gradient("L").resize((SIDE, SIDE)).convert("RGB")


def half_mask() -> Image.Image:
    """White on the right half."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    return mask


_FILM = {"num_frames": FRAMES, "max_sequence_length": TEXT_TOKENS}
_EDIT = {"negative_prompt": " ", "true_cfg_scale": 4.0}
_CALLS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "flux_kontext": lambda: {"image": first_picture(), "_auto_resize": False, "max_area": SIDE**2},
    "flux_fill": lambda: {"image": first_picture(), "mask_image": half_mask()},
    "sd_inpaint": lambda: {"image": first_picture(), "mask_image": half_mask()},
    "sdxl_inpaint": lambda: {
        "image": first_picture(),
        "mask_image": half_mask(),
        "strength": 0.99,
    },
    "qwen_image_edit": lambda: {**_EDIT, "image": [first_picture(), last_picture()]},
    "qwen_image_edit-first": lambda: {**_EDIT, "image": first_picture()},
    "wan_i2v": lambda: {**_FILM, "image": first_picture()},
    "wan_i2v-to-last": lambda: {**_FILM, "image": first_picture(), "last_image": last_picture()},
    "wan_i2v-experts": lambda: {
        **_FILM,
        "image": first_picture(),
        "last_image": last_picture(),
    },
    "wan-both": lambda: {**_FILM, "image": first_picture()},
    "ltx": lambda: {**_FILM, "image": first_picture(), "frame_rate": 6},
    "ltx-condition": lambda: {
        **_FILM,
        "image": [first_picture(), last_picture()],
        "video": [None, None],
        "frame_index": [0, FRAMES - 1],
        "strength": [1.0, 1.0],
        "frame_rate": 6,
    },
    "hunyuan_video_i2v": lambda: {"image": first_picture(), "num_frames": FRAMES},
    # It takes the first four off again.
    "hunyuan_video_i2v-first": lambda: {
        "image": first_picture(),
        "num_frames": FRAMES + 4,
        "true_cfg_scale": 4.0,
    },
}
_OTHER_PIPELINES = {
    "wan-both": df.WanImageToVideoPipeline,
    "ltx": df.LTXImageToVideoPipeline,
}


def make(name: str, pipeline: Any, seed: int = 7, steps: int = 2) -> torch.Tensor:
    """What diffusers' own pipeline makes of a picture: (pictures or frames, 3, height, width)."""
    if (kind := _OTHER_PIPELINES.get(name)) is not None:
        more = {"expand_timesteps": True} if name == "wan-both" else {}
        pipeline = kind(**pipeline.components, **more)
    pipeline.set_progress_bar_config(disable=True)
    told: dict[str, Any] = {"negative_prompt": ""}
    if name.startswith("flux"):
        told = {"max_sequence_length": TEXT_TOKENS}
    made = pipeline(
        **{**told, **_CALLS[name]()},
        prompt=PROMPT,
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    )
    found: torch.Tensor = made.images if hasattr(made, "images") else made.frames[0]
    return found
