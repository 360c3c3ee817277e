"""How long a prompt HunyuanVideo reads: as long as its pipeline leaves whole, to the token."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quickthaw.wire.errors import InvalidInput
from quickthaw.worker.families import adapter
from quickthaw.worker.families.base import MakesVideo
from quickthaw.worker.filming import film
from quickthaw.worker.inputs import VideoInput
from quickthaw.worker.pictures import Pictures
from quickthaw.worker.previews import LinearMap
from support.hunyuan_models import tiny_hunyuan, tiny_hunyuan_i2v
from support.listening import Nobody
from support.picture_models import first_picture

TAKEN = 256
"""Tokens."""
BUILDERS: dict[str, Callable[[], Any]] = {
    "hunyuan_video": tiny_hunyuan,
    "hunyuan_video_i2v": tiny_hunyuan_i2v,
}
FILM = VideoInput(
    prompt="a red circle",
    negative_prompt="",
    width=32,
    height=32,
    num_frames=1,
    fps=8,
    num_inference_steps=1,
    guidance_scale=6.0,
    seed=1,
    output_format="mp4",
    preview_every=1,
)


class Listener(Nobody):
    def __init__(self) -> None:
        self.told: list[str] = []

    def log(self, level: str, text: str) -> None:
        self.told.append(f"{level}: {text}")


def family_of(name: str) -> MakesVideo:
    family = adapter(name)
    assert isinstance(family, MakesVideo)
    return family


def message(pipe: Any, prompt: str) -> int:
    """Tokens of what the language model is given, without what is taken off again."""
    template = inspect.signature(pipe.encode_prompt).parameters["prompt_template"].default
    framed = template["template"].format(prompt)
    return len(pipe.tokenizer(framed).input_ids) - int(template["crop_start"])


@pytest.mark.parametrize("name", BUILDERS)
def test_the_longest_prompt_that_is_taken_is_the_longest_that_is_not_cut_off(name: str) -> None:
    pipe, listener = BUILDERS[name](), Listener()
    texts = (" ".join(["red"] * words) for words in range(200, 300))
    longest = next(text for text in texts if message(pipe, text) == TAKEN)
    check = functools.partial(family_of(name).check_prompts, pipe, log=listener.log)
    check(replace(FILM, prompt=longest))
    (warned,) = listener.told
    assert "text_encoder_2, which summarises only its first 77; text_encoder reads" in warned
    with pytest.raises(InvalidInput, match="text_encoder reads at most"):
        check(replace(FILM, prompt=f"{longest} red"))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_video_of_one_frame_is_made_and_shown_on_the_way(name: str) -> None:
    pictures = Pictures(first_picture(), None) if name.endswith("i2v") else None
    linear: LinearMap = _Grey()
    made = film(BUILDERS[name](), family_of(name), FILM, linear, Nobody(), Nobody(), None, pictures)
    assert '"num_frames": 1' in made.output_json


class _Grey:
    weights = ((0.1, 0.1, 0.1),) * 4
    bias = (0.5, 0.5, 0.5)
