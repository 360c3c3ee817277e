"""One request on one pipeline: what it must leave as it found it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quickthaw.worker.drawing import draw
from quickthaw.worker.families import picture_adapter
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.own_pipeline import own_pipeline, seed_of, weights_kept
from support.listening import Nobody
from support.tiny_models import tiny_sd, tiny_sdxl

pytestmark = [
    # diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Its SDXL pipeline calls a method of its own that it deprecates.
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]

REQUEST = ImageInput(
    prompt="a red circle",
    negative_prompt="",
    width=32,
    height=32,
    num_images=1,
    num_inference_steps=2,
    guidance_scale=5.0,
    seed=1,
    output_format="png",
    preview_every=0,
)


def places(module: torch.nn.Module) -> dict[str, tuple[int, torch.dtype]]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in tensors.items()}


def settings_of(pipe: Any) -> dict[str, Any]:
    return {name: value for name, value in pipe.scheduler.config.items() if name[0] != "_"}


def drawn(pipe: Any, family: str) -> bytes:
    result = draw(pipe, picture_adapter(family), REQUEST, None, Nobody(), Nobody())
    return result.files[0].data


def test_a_half_precision_vae_that_the_pipeline_casts_stays_in_its_place() -> None:
    pipe = tiny_sdxl()
    pipe.to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    before = places(pipe.vae)
    first = drawn(pipe, "sdxl")
    assert places(pipe.vae) == before
    assert drawn(pipe, "sdxl") == first


def test_weights_are_put_back_buffers_included_also_after_an_error() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).half()
    before = places(module)

    def fail() -> None:
        with torch.inference_mode(), weights_kept(module):
            module.to(torch.float32)
            assert places(module) != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert places(module) == before


def test_a_requests_own_pipeline_shares_modules_and_nothing_that_a_run_changes() -> None:
    pipe = tiny_sd()
    mine = own_pipeline(pipe)
    assert mine.unet is pipe.unet
    assert mine.scheduler is not pipe.scheduler
    assert settings_of(mine) == settings_of(pipe)
    mine.scheduler.set_timesteps(3)
    assert pipe.scheduler.num_inference_steps is None
    assert drawn(pipe, "sd") == drawn(mine, "sd")


def test_a_seed_that_was_drawn_keeps_its_digits_in_javascript_and_a_named_one_all_of_them() -> None:
    assert max(seed_of(None) for _ in range(1_000)) < 2**53
    assert seed_of(2**63 - 1) == 2**63 - 1
    assert seed_of(0) == 0
