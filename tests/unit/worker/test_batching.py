"""Pictures drawn in a batch are those drawn alone, and one member's trouble is its own."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from quickthaw.wire.errors import InvalidInput
from quickthaw.worker.attempts import RunResult
from quickthaw.worker.batching import End, Member, batch_key, draw_batch
from quickthaw.worker.drawing import draw
from quickthaw.worker.families import BATCHING, picture_adapter
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.ports import RunStopped
from support.flux2_models import tiny_flux2, tiny_klein
from support.other_models import tiny_sd3
from support.snapshots import a_loader
from support.tiny_models import tiny_flux, tiny_sd, tiny_sdxl

pytestmark = [
    # diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Its SDXL pipeline calls a method of its own that it deprecates.
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]

SHAPES = Path(__file__).parents[3] / "models" / "shapes" / "snapshot"
LEVELS_MAX = 1
"""Of 255. Kernels of another batch size add up in another order: on a CPU the tiny pipelines here
have one value in three thousand that rounds the other way, and `quickthaw/shapes` has none."""

PROMPTS = ("a red circle", "a blue square", "yellow", "a green circle")
REQUEST = ImageInput(
    prompt="",
    negative_prompt="",
    width=32,
    height=32,
    num_images=1,
    num_inference_steps=3,
    guidance_scale=4.0,
    seed=1,
    output_format="png",
    preview_every=0,
)


class Listener:
    """Hears one member's news; a stop signal that is set after so many steps."""

    def __init__(self, stop_after: int = 1_000) -> None:
        self.steps: list[tuple[int, int]] = []
        self.previews: list[tuple[int, int]] = []
        self.left = 0
        self._stop_after = stop_after

    def is_set(self) -> bool:
        return len(self.steps) >= self._stop_after

    async def wait(self) -> None:
        raise AssertionError("nobody waits here")

    def progress(self, step: int, steps: int) -> None:
        self.steps.append((step, steps))

    def preview(
        self, step: int, image_index: int, content_type: str, data: bytes, size: tuple[int, int]
    ) -> None:
        self.previews.append((step, image_index))

    def log(self, level: str, text: str) -> None: ...

    def leave(self) -> None:
        self.left += 1


class Map:
    """A map from four latent channels to grey."""

    weights = [[0.1] * 3] * 4
    bias = [0.5] * 3


def requests(number: int, **changes: Any) -> list[ImageInput]:
    return [
        replace(REQUEST, prompt=PROMPTS[index], seed=10 + index, **changes)
        for index in range(number)
    ]


def in_batch(
    pipe: Any, family: str, wanted: Sequence[ImageInput], heard: Sequence[Listener] = ()
) -> list[End]:
    listeners = heard or [Listener() for _ in wanted]
    members = [
        Member(request, listener, listener, listener.leave)
        for request, listener in zip(wanted, listeners, strict=True)
    ]
    return draw_batch(pipe, picture_adapter(family), members, Map())


def alone(pipe: Any, family: str, request: ImageInput) -> RunResult:
    return draw(pipe, picture_adapter(family), request, None, Listener(), Listener())


def pixels(result: End) -> list[Any]:
    assert isinstance(result, RunResult)
    return [np.asarray(Image.open(io.BytesIO(each.data))).astype(int) for each in result.files]


FAMILIES = (("sd", tiny_sd), ("sdxl", tiny_sdxl), ("flux", tiny_flux), ("sd3", tiny_sd3))


@pytest.mark.parametrize(
    ("family", "make", "images"),
    [
        *((*family, images) for family in FAMILIES for images in (1, 2)),
        ("flux2", tiny_flux2, 2),
        ("flux2_klein", tiny_klein, 1),
    ],
)
def test_a_picture_is_the_same_beside_others_but_for_the_rounding_of_sums(
    family: str, make: Callable[[], Any], images: int
) -> None:
    pipe = make()
    wanted = requests(3, num_images=images)
    for request, end in zip(wanted, in_batch(pipe, family, wanted), strict=True):
        for one, other in zip(pixels(alone(pipe, family, request)), pixels(end), strict=True):
            difference = np.abs(one - other)
            assert difference.max() <= LEVELS_MAX
            assert (difference > 0).mean() <= 0.001


@pytest.fixture
def shapes(tmp_path: Path) -> Iterator[Any]:
    shutil.copytree(SHAPES, tmp_path / "shapes")
    store = SnapshotStore(tmp_path / "shapes")
    (digest,) = (each.name for each in (SHAPES / "snapshots").iterdir())
    with a_loader(store) as loader, loader.load(digest) as model:
        yield model.pipeline


def test_the_shapes_model_draws_the_same_pictures_bit_for_bit(shapes: Any) -> None:
    wanted = requests(4, width=64, height=64, num_inference_steps=8, guidance_scale=2.0)
    for request, end in zip(wanted, in_batch(shapes, "sd", wanted), strict=True):
        assert isinstance(end, RunResult)
        by_itself = alone(shapes, "sd", request)
        assert [file.data for file in end.files] == [file.data for file in by_itself.files]
        assert (end.seed, json.loads(end.output_json)) == (
            by_itself.seed,
            json.loads(by_itself.output_json),
        )


def test_every_family_that_is_announced_says_that_it_batches() -> None:
    assert all(picture_adapter(name).batches for name in BATCHING)


def test_progress_and_previews_go_to_each_as_it_asked() -> None:
    heard = [Listener() for _ in range(3)]
    wanted = requests(3)
    wanted[0] = replace(wanted[0], preview_every=1)
    wanted[2] = replace(wanted[2], preview_every=3)
    in_batch(tiny_sd(), "sd", wanted, heard)
    assert [each.steps for each in heard] == [[(1, 3), (2, 3), (3, 3)]] * 3
    assert heard[0].previews == [(1, 0), (2, 0), (3, 0)]
    assert heard[1].previews == []
    assert heard[2].previews == [(1, 0), (3, 0)]


def test_a_member_that_is_stopped_leaves_the_others_unharmed() -> None:
    pipe = tiny_sd()
    heard = [Listener(), Listener(stop_after=1), Listener()]
    wanted = requests(3)
    ends = in_batch(pipe, "sd", wanted, heard)
    assert ends[1] is None
    assert (heard[1].left, len(heard[1].steps)) == (1, 1)
    undisturbed = in_batch(pipe, "sd", wanted)
    for index in (0, 2):
        assert heard[index].left == 0
        for one, other in zip(pixels(ends[index]), pixels(undisturbed[index]), strict=True):
            assert (one == other).all()


def test_a_batch_that_everybody_left_stops() -> None:
    heard = [Listener(stop_after=1), Listener(stop_after=2)]
    with pytest.raises(RunStopped):
        in_batch(tiny_sd(), "sd", requests(2), heard)
    assert [each.left for each in heard] == [1, 1]
    assert len(heard[1].steps) == 2


def test_a_prompt_that_is_too_long_is_that_member_s_error_alone() -> None:
    wanted = requests(2)
    wanted[0] = replace(wanted[0], prompt="red " * 100)
    first, second = in_batch(tiny_sd(), "sd", wanted)
    assert isinstance(first, InvalidInput)
    assert isinstance(second, RunResult)


def test_a_seed_that_was_not_given_is_told_to_each() -> None:
    ends = in_batch(tiny_sd(), "sd", [replace(each, seed=None) for each in requests(2)])
    seeds = {json.loads(end.output_json)["seed"] for end in ends if isinstance(end, RunResult)}
    assert len(seeds) == 2


def test_what_a_batch_must_have_in_common_is_its_key() -> None:
    assert batch_key(replace(REQUEST, image_url="https://example.com/a.png")) == ""
    same = replace(REQUEST, prompt="x", negative_prompt="y", seed=7, output_format="webp")
    assert batch_key(same) == batch_key(REQUEST)
    for change in (
        {"width": 64},
        {"num_images": 2},
        {"num_inference_steps": 4},
        {"guidance_scale": 1.0},
    ):
        assert batch_key(replace(REQUEST, **change)) != batch_key(REQUEST)
