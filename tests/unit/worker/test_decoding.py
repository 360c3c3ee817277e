"""How large pictures and videos are decoded: in parts, by their size alone, with less memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from quickthaw.snapshot.families import FAMILIES
from quickthaw.worker.attempts import OutputFile
from quickthaw.worker.batching import Member, draw_batch
from quickthaw.worker.decoding import decode_pictures, decode_video
from quickthaw.worker.drawing import draw
from quickthaw.worker.families import adapter, picture_adapter
from quickthaw.worker.families.base import MakesVideo
from quickthaw.worker.filming import film
from quickthaw.worker.inputs import ImageInput, VideoInput
from quickthaw.worker.own_pipeline import own_pipeline
from quickthaw.worker.ports import RunStopped
from support.host_memory import MIB, Peak, private_bytes
from support.hunyuan_models import tiny_hunyuan
from support.listening import Nobody
from support.other_models import tiny_ltx, tiny_wan
from support.tiny_models import ready, seeded, tiny_flux, tiny_sd, tiny_sdxl, vae

pytestmark = [
    # diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Its SDXL pipeline calls a method of its own that it deprecates.
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]

SIDE = 80
"""Of a picture, in pixels; a tiny VAE's tiles have 32, of which 8 overlap: sixteen of them."""
TILES = 16
PICTURE = ImageInput(
    prompt="a red circle",
    negative_prompt="",
    width=SIDE,
    height=SIDE,
    num_images=1,
    num_inference_steps=2,
    guidance_scale=4.0,
    seed=1,
    output_format="png",
    preview_every=0,
)
FILM = VideoInput(
    prompt="a red circle",
    negative_prompt="",
    width=0,
    height=0,
    num_frames=9,
    fps=8,
    num_inference_steps=1,
    guidance_scale=1.0,
    seed=1,
    output_format="mp4",
    preview_every=0,
)
PICTURES = {"sd": tiny_sd, "sdxl": tiny_sdxl, "flux": tiny_flux}
VIDEOS: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    # A little more than a tile of each.
    "wan": (tiny_wan, (272, 16)),
    "ltx": (tiny_ltx, (544, 32)),
    "hunyuan_video": (tiny_hunyuan, (272, 16)),
}


@pytest.fixture
def tiled_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Changes the line of a family's table."""

    def change(name: str, pixels: int) -> None:
        changed = replace(FAMILIES[name], tiled_over_pixels=pixels)
        monkeypatch.setitem(cast("dict[str, Any]", FAMILIES), name, changed)

    return change


class Decoded:
    """Counts what goes through a pipeline's decoder, and says stop after so many."""

    def __init__(self, pipe: Any, stop_after: int = 1_000) -> None:
        self.parts: list[int] = []
        """Pictures of each."""
        self._stop_after = stop_after
        pipe.vae.decoder.register_forward_hook(self._count)

    def _count(self, module: Any, arguments: Any, made: torch.Tensor) -> None:
        self.parts.append(len(made))

    def is_set(self) -> bool:
        return len(self.parts) >= self._stop_after

    async def wait(self) -> None:
        raise AssertionError("nobody waits here")


def drawn(pipe: Any, family: str, request: ImageInput = PICTURE, stop: Any = None) -> list[bytes]:
    result = draw(pipe, picture_adapter(family), request, None, Nobody(), stop or Nobody())
    return [file.data for file in result.files]


def filmed(pipe: Any, family: str, size: tuple[int, int], stop: Any = None) -> bytes:
    kind = adapter(family)
    assert isinstance(kind, MakesVideo)
    request = replace(FILM, width=size[0], height=size[1])
    (file,) = film(pipe, kind, request, None, Nobody(), stop or Nobody()).files
    assert isinstance(file, OutputFile)
    return file.data


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)), dtype=int)


def state(module: torch.nn.Module) -> Mapping[str, object]:
    """What decoding in parts changes of a module, if it is not on a copy."""
    hooks = {name: len(part._forward_pre_hooks) for name, part in module.named_modules()}
    held = vars(module)
    return {
        "tiles": held.get("use_tiling"),
        "slices": held.get("use_slicing"),
        "decoder": id(module.decoder),
        "hooks": hooks,
    }


@pytest.mark.parametrize("family", PICTURES)
def test_a_picture_is_decoded_in_the_vaes_own_tiles_beyond_its_familys_size(
    family: str, tiled_over: Callable[[str, int], None]
) -> None:
    pipe = PICTURES[family]()
    whole = drawn(pipe, family)
    before = state(pipe.vae)
    tiled_over(family, SIDE * SIDE)
    assert drawn(pipe, family) == whole, "as large as the table says is not larger"
    tiled_over(family, SIDE * SIDE - 1)
    counted = Decoded(pipe)
    tiled = drawn(pipe, family)
    assert counted.parts == [1] * TILES
    assert state(pipe.vae) == before
    other = PICTURES[family]()
    other.vae.enable_tiling()
    tiled_over(family, SIDE * SIDE)
    assert tiled == drawn(other, family) != whole
    # A tile has its own mean for the norms to take off, so it is not the same to the bit.
    assert np.abs(pixels(tiled[0]) - pixels(whole[0])).mean() < 16
    assert drawn(pipe, family) == whole


@pytest.mark.parametrize("family", VIDEOS)
def test_a_video_is_decoded_in_the_vaes_own_tiles_beyond_its_familys_size(
    family: str, tiled_over: Callable[[str, int], None]
) -> None:
    build, size = VIDEOS[family]
    counted = size[0] * size[1] * (FILM.num_frames if family == "ltx" else 1)
    pipe = build()
    before = state(pipe.vae)
    tiled_over(family, counted)
    whole = filmed(pipe, family, size)
    tiled_over(family, counted - 1)
    tiled = filmed(pipe, family, size)
    assert state(pipe.vae) == before
    tiled_over(family, counted)
    assert filmed(pipe, family, size) == whole
    pipe.vae.enable_tiling()
    assert tiled == filmed(pipe, family, size) != whole


def test_tiles_take_less_memory_than_the_whole(tiled_over: Callable[[str, int], None]) -> None:
    """Measured by what the kernel says that the process holds."""
    pipe = tiny_sd()
    with seeded(0):
        pipe.vae = vae(mid_block_add_attention=False)
        latents = torch.randn(1, 4, 384, 384)
    ready(pipe).vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 96, 48
    made: list[torch.Tensor] = []
    taken: list[int] = []
    # What the whole has left free, the allocator might give to the tiles, unseen from outside.
    for limit in (768 * 768 - 1, 768 * 768):
        tiled_over("sd", limit)
        clone = own_pipeline(pipe)
        decode_pictures(pipe, clone, (768, 768), 1, lambda: None)
        before = private_bytes()
        with torch.inference_mode(), Peak() as peak:
            made.append(clone.vae.decode(latents).sample)
        taken.append(peak.nbytes - before)
    tiled, whole = taken
    assert whole > 80 * MIB, "the whole takes enough to be seen"
    assert tiled < whole / 3
    assert made[0].shape == made[1].shape
    assert (made[0] - made[1]).abs().mean() < made[1].std() / 4


def test_several_pictures_that_are_large_together_are_decoded_one_by_one(
    tiled_over: Callable[[str, int], None],
) -> None:
    pipe = tiny_sd()
    three = replace(PICTURE, num_images=3)
    tiled_over("sd", 3 * SIDE * SIDE)
    together = Decoded(pipe)
    whole = drawn(pipe, "sd", three)
    assert together.parts == [3]
    tiled_over("sd", 3 * SIDE * SIDE - 1)
    apart = Decoded(pipe)
    sliced = drawn(pipe, "sd", three)
    assert apart.parts == [1, 1, 1]
    # Kernels of another batch size may add up in another order.
    for one, other in zip(sliced, whole, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_requests_that_are_drawn_together_are_decoded_one_by_one_too(
    tiled_over: Callable[[str, int], None],
) -> None:
    pipe = tiny_sd()
    members = [
        Member(replace(PICTURE, seed=seed), Nobody(), Nobody(), lambda: None) for seed in (1, 2)
    ]
    tiled_over("sd", SIDE * SIDE)
    counted = Decoded(pipe)
    ends = draw_batch(pipe, picture_adapter("sd"), members, None)
    assert counted.parts == [1, 1]
    assert len(ends) == 2
    tiled_over("sd", SIDE * SIDE - 1)
    counted.parts.clear()
    draw_batch(pipe, picture_adapter("sd"), members, None)
    assert counted.parts == [1] * 2 * TILES


def test_a_run_stops_between_two_tiles_and_the_next_is_as_ever(
    tiled_over: Callable[[str, int], None],
) -> None:
    tiled_over("sd", 1)
    pipe = tiny_sd()
    first = drawn(pipe, "sd")
    stop = Decoded(pipe, stop_after=3)
    with pytest.raises(RunStopped):
        drawn(pipe, "sd", stop=stop)
    assert len(stop.parts) == 3
    assert drawn(pipe, "sd") == first


def test_a_batch_stops_between_two_tiles_when_nobody_is_left(
    tiled_over: Callable[[str, int], None],
) -> None:
    tiled_over("sd", 1)
    pipe = tiny_sd()
    stop = Decoded(pipe, stop_after=3)
    left: list[int] = []
    member = Member(PICTURE, Nobody(), stop, lambda: left.append(len(stop.parts)))
    with pytest.raises(RunStopped):
        draw_batch(pipe, picture_adapter("sd"), [member], None)
    assert left == [3]


def test_a_video_stops_between_two_frames_and_keeps_nothing_of_them() -> None:
    pipe = tiny_wan()
    stop = Decoded(pipe, stop_after=2)
    with pytest.raises(RunStopped):
        filmed(pipe, "wan", (32, 32), stop)
    assert len(stop.parts) == 2
    kept: list[torch.Tensor | None] = vars(pipe.vae).get("_feat_map", [])
    assert not any(each is not None for each in kept)


def test_two_requests_on_one_vae_decode_each_in_its_own_way(
    tiled_over: Callable[[str, int], None],
) -> None:
    tiled_over("wan", 32 * 32)
    pipe = tiny_wan()
    large, small = own_pipeline(pipe), own_pipeline(pipe)
    decode_video(pipe, large, (64, 32), 9, lambda: None)
    decode_video(pipe, small, (32, 32), 9, lambda: None)
    assert [each.vae.use_tiling for each in (large, small, pipe)] == [True, False, False]
    ours, theirs = (dict(each.vae.named_parameters()) for each in (large, pipe))
    assert all(ours[name] is tensor for name, tensor in theirs.items())


def test_a_vae_that_the_pipeline_casts_stays_in_its_place_when_it_decodes_tiles(
    tiled_over: Callable[[str, int], None],
) -> None:
    tiled_over("sdxl", 1)
    pipe = tiny_sdxl()
    pipe.to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    before = {name: each.data_ptr() for name, each in pipe.vae.named_parameters()}
    first = drawn(pipe, "sdxl")
    assert {name: each.data_ptr() for name, each in pipe.vae.named_parameters()} == before
    assert pipe.vae.dtype == torch.float16
    assert drawn(pipe, "sdxl") == first


def test_what_a_model_makes_unless_told_otherwise_is_decoded_as_ever() -> None:
    """Of the sizes that people usually ask for, too: these bytes must not change."""
    usual = {
        **dict.fromkeys(("sd", "sdxl", "sd3", "flux", "flux2", "chroma"), (1024, 1024)),
        "qwen_image": (1328, 1328),
        "z_image": (1536, 1024),
        "wan": (1280, 720),
        "ltx": (1216, 704),
        "svd": (1024, 576),
    }
    for name, size in usual.items():
        assert not FAMILIES[name].decodes_in_tiles(size, 121), name
    assert FAMILIES["ltx"].decodes_in_tiles((1216, 704), 161)
    assert FAMILIES["sdxl"].decodes_in_tiles((2048, 2048))
    assert not FAMILIES["sdxl"].decodes_one_by_one((1024, 1024), 2)
    assert FAMILIES["sdxl"].decodes_one_by_one((1024, 1024), 3)
    assert not FAMILIES["sdxl"].decodes_one_by_one((2048, 2048), 1)
