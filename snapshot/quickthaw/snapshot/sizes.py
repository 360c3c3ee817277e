"""How large what a pipeline makes may be, and how much memory making it takes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from quickthaw.snapshot.families import ANY_SIZE, Family
from quickthaw.snapshot.input_properties import SECONDS_MAX, FrameRule, Output, SizeRule

_MAPS = 10
"""As wide as its first block that a VAE holds at once, at full resolution."""
_VIDEO_DECODED_AT_ONCE = 8
"""Frames; what decodes them all at once does so at a fraction of their resolution."""


def vae_scale(vae: Any) -> int:
    """Picture pixels a latent pixel is wide; 0 for a VAE of sounds."""
    config = vae.config
    for holder, name in ((config, "scale_factor_spatial"), (vae, "spatial_compression_ratio")):
        if found := getattr(holder, name, None):
            return int(found)
    blocks = getattr(config, "block_out_channels", None)
    return 0 if blocks is None else int(2 ** (len(blocks) - 1))


def frame_scale(vae: Any) -> int:
    """Frames of a video, after the first, that a latent frame stands for."""
    named = ((vae.config, "scale_factor_temporal"), (vae, "temporal_compression_ratio"))
    return next((int(found) for holder, name in named if (found := getattr(holder, name, 0))), 1)


def size_rule(pipeline: Any, family: Family) -> SizeRule:
    """Sizes around the one the model was trained at: a quarter of its side to twice it."""
    if family.output is Output.AUDIO:
        return ANY_SIZE
    scale = vae_scale(pipeline.vae)
    step = math.lcm(family.side_step, scale * family.patch)
    width, height = (-(-side // step) * step for side in _trained_at(pipeline, family, scale))
    # Those that name no size were trained at several.
    anywhere = family.landscape is not None and _sample_size(pipeline, family) is None
    least = step if anywhere else max(min(width, height) // 4 // step, 1) * step
    return SizeRule(
        default=width,
        multiple_of=step,
        minimum=least,
        maximum=2 * width,
        default_height=None if height == width else height,
    )


def _trained_at(pipeline: Any, family: Family, scale: int) -> tuple[int, int]:
    sample = _sample_size(pipeline, family)
    if sample is None and family.landscape is not None:
        return family.landscape
    side = pipeline.vae.config.sample_size if sample is None else _side(sample) * scale
    if family.landscape is None:
        return side, side
    # As many pixels as the square that the denoiser speaks of, in the shape of its videos.
    width, height = family.landscape
    stretch = side / math.sqrt(width * height)
    return round(width * stretch), round(height * stretch)


def _sample_size(pipeline: Any, family: Family) -> Any:
    return getattr(getattr(pipeline, family.denoiser).config, "sample_size", None)


def _side(sample_size: Any) -> int:
    return int(sample_size if isinstance(sample_size, int) else max(sample_size))


def frame_rule(pipeline: Any, family: Family) -> FrameRule:
    """As many frames as the denoiser was trained with, or as its family usually makes."""
    if family.output is not Output.VIDEO:
        return family.frames
    step = frame_scale(pipeline.vae)
    trained = getattr(getattr(pipeline, family.denoiser).config, "num_frames", None)
    wanted = trained or family.frames.default
    return replace(family.frames, default=(wanted - 1) // step * step + 1, step=step)


def seconds_max(pipeline: Any, family: Family) -> float:
    """Of a sound: as long as what the denoiser makes."""
    if family.output is not Output.AUDIO:
        return SECONDS_MAX
    config = pipeline.vae.config
    samples = getattr(pipeline, family.denoiser).config.sample_size
    # Rounded down: the pipeline refuses any more.
    seconds = float(samples * math.prod(config.downsampling_ratios) / config.sampling_rate)
    return min(SECONDS_MAX, math.floor(seconds * 100) / 100)


def working_set_bytes(pipeline: Any, family: Family, size: SizeRule, frames: FrameRule) -> int:
    """A generous guess at one request's peak beside the weights, at the default size.

    Decoding dominates: at full resolution the VAE holds some ten maps as wide as its first block,
    of a tile where its family decodes this size in tiles.
    The denoiser adds some sixteen maps of its width for two guidance branches. Sound is decoded in
    one piece, some four times as long as it is.
    """
    vae, denoiser = pipeline.vae, getattr(pipeline, family.denoiser)
    if family.output is Output.AUDIO:
        samples = denoiser.config.sample_size * math.prod(vae.config.downsampling_ratios)
        return int(4 * samples * vae.config.decoder_channels * vae.dtype.itemsize)
    pixels, side = size.default * size.height, vae_scale(vae) * family.patch
    item = 4 if getattr(vae.config, "force_upcast", False) else vae.dtype.itemsize
    count = frames.default
    tiled = family.decodes_in_tiles((size.default, size.height), count)
    at_once = min(pixels, _tile_pixels(vae)) if tiled else pixels
    decoding = _MAPS * at_once * _first_width(vae) * item
    denoising = 2 * 16 * (pixels // side**2) * _channels(denoiser) * denoiser.dtype.itemsize
    if family.output is Output.IMAGE:
        return int(max(decoding, denoising))
    latent_frames = (count - 1) // frames.step + 1
    finished = 2 * count * pixels * 3 * 4
    return int(
        max(min(count, _frames_at_once(vae)) * decoding, latent_frames * denoising) + finished
    )


def _tile_pixels(vae: Any) -> int:
    """As the VAE cuts tiles unless told otherwise."""
    if (side := getattr(vae, "tile_sample_min_size", None)) is not None:
        return int(side) ** 2
    return int(vae.tile_sample_min_width * vae.tile_sample_min_height)


def _frames_at_once(vae: Any) -> int:
    """Of a video that is decoded: those of a tile in time and the one before."""
    if not getattr(vae, "use_framewise_decoding", False):
        return _VIDEO_DECODED_AT_ONCE
    return int(vae.tile_sample_min_num_frames) + 1


def _first_width(vae: Any) -> int:
    widths = getattr(vae.config, "block_out_channels", None)
    return int(vae.config.base_dim if widths is None else widths[0])


def _channels(denoiser: Any) -> int:
    if width := getattr(denoiser.config, "block_out_channels", None):
        return int(max(width))
    if width := getattr(denoiser.config, "dim", None):
        return int(width)
    return int(denoiser.config.num_attention_heads * denoiser.config.attention_head_dim)
