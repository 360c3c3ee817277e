"""Sizes, frames and lengths that a model's inputs may have: as the released models have them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from quickthaw.snapshot import family_named
from quickthaw.snapshot.input_properties import FrameRule, SizeRule
from quickthaw.snapshot.sizes import frame_rule, seconds_max, size_rule, working_set_bytes

GIB = 1 << 30


class _Vae(SimpleNamespace):
    dtype = SimpleNamespace(itemsize=2)


def named(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**values)


def denoiser(**config: Any) -> SimpleNamespace:
    return named(config=named(**config), dtype=named(itemsize=2))


SVD = named(
    vae=_Vae(config=named(block_out_channels=(128, 256, 512, 512), force_upcast=True)),
    unet=denoiser(sample_size=96, num_frames=25, block_out_channels=(320, 640, 1280, 1280)),
)
WAN = named(
    vae=_Vae(config=named(scale_factor_spatial=8, scale_factor_temporal=4, base_dim=96)),
    transformer=denoiser(num_attention_heads=12, attention_head_dim=128),
)
LTX = named(
    vae=_Vae(
        config=named(block_out_channels=(128, 256, 512, 512)),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ),
    transformer=denoiser(num_attention_heads=32, attention_head_dim=64),
)
HUNYUAN = named(
    vae=_Vae(
        config=named(block_out_channels=(128, 256, 512, 512)),
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        tile_sample_min_width=256,
        tile_sample_min_height=256,
        tile_sample_min_num_frames=16,
        use_framewise_decoding=True,
    ),
    transformer=denoiser(num_attention_heads=24, attention_head_dim=128),
)
STABLE_AUDIO = named(
    vae=_Vae(
        config=named(
            downsampling_ratios=[2, 4, 4, 8, 8], sampling_rate=44_100, decoder_channels=128
        )
    ),
    transformer=denoiser(sample_size=1024),
)


@pytest.mark.parametrize(
    ("family", "pipeline", "size", "step", "frames"),
    [
        ("svd", SVD, (1024, 576), 8, FrameRule(25, 1, 7)),
        ("wan", WAN, (832, 480), 16, FrameRule(81, 4, 16)),
        ("ltx", LTX, (704, 480), 32, FrameRule(161, 8, 25)),
        ("hunyuan_video", HUNYUAN, (960, 544), 16, FrameRule(129, 4, 24)),
    ],
)
def test_a_videos_defaults_are_those_of_its_release(
    family: str, pipeline: Any, size: tuple[int, int], step: int, frames: FrameRule
) -> None:
    rule = size_rule(pipeline, family_named(family))
    assert (rule.default, rule.height, rule.multiple_of) == (*size, step)
    assert rule.minimum % step == rule.maximum % step == 0
    assert frame_rule(pipeline, family_named(family)) == frames
    needed = working_set_bytes(pipeline, family_named(family), rule, frames)
    assert 2 * GIB < needed < 64 * GIB


def test_what_is_decoded_in_tiles_is_counted_by_its_tiles() -> None:
    flux = family_named("flux")
    pipeline = named(
        vae=_Vae(config=named(block_out_channels=(128, 256, 512, 512)), tile_sample_min_size=512),
        transformer=denoiser(num_attention_heads=4, attention_head_dim=128),
    )
    rule = SizeRule(default=1024, multiple_of=16, minimum=256, maximum=2048)
    whole = working_set_bytes(pipeline, flux, rule, flux.frames)
    # A line of the table decides, as it does when the picture is drawn.
    small = replace(flux, tiled_over_pixels=1024 * 1024 - 1)
    assert working_set_bytes(pipeline, small, rule, flux.frames) == whole // 4
    same = replace(flux, tiled_over_pixels=1024 * 1024)
    assert working_set_bytes(pipeline, same, rule, flux.frames) == whole


def test_a_video_decoded_in_tiles_of_time_is_counted_by_those() -> None:
    hunyuan = family_named("hunyuan_video")
    rule, frames = size_rule(HUNYUAN, hunyuan), frame_rule(HUNYUAN, hunyuan)
    needed = working_set_bytes(HUNYUAN, hunyuan, rule, frames)
    untiled = working_set_bytes(HUNYUAN, replace(hunyuan, tiled_over_pixels=None), rule, frames)
    frames_at_once, maps, bytes_each = 17, 10, 2
    decoded = frames_at_once * maps * 960 * 544 * 128 * bytes_each
    assert decoded < untiled < decoded * 1.2
    assert needed < untiled * 2 / 3


def test_frames_that_no_decoder_gives_are_refused_by_the_schema() -> None:
    wan = family_named("wan")
    schema: Any = wan.input_schema(size_rule(WAN, wan), frames=frame_rule(WAN, wan))
    allowed = schema["properties"]["num_frames"]["enum"]
    assert allowed[:3] == [1, 5, 9]
    assert 81 in allowed
    assert 80 not in allowed


def test_a_sound_is_no_longer_than_what_its_model_makes() -> None:
    audio = family_named("stable_audio")
    longest = seconds_max(STABLE_AUDIO, audio)
    assert longest == 47.55
    schema: Any = audio.input_schema(size_rule(STABLE_AUDIO, audio), seconds_max=longest)
    assert schema["properties"]["seconds_total"]["maximum"] == longest
    assert schema["properties"]["seconds_total"]["default"] == 30
