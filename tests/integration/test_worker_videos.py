"""Videos and sounds from a worker: real tiny pipelines, files that a player's libraries read."""

from __future__ import annotations

import base64
import io
import json
import sys
import wave
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import types_pb2
from support.hunyuan_models import tiny_hunyuan
from support.other_models import tiny_audio, tiny_ltx, tiny_svd, tiny_wan
from support.pixels import data_uri
from support.studio import CANCELLED, Packed, Studio
from support.tiny_models import TEXT_TOKENS

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Stable Audio's decoder normalises its weights in a way that torch deprecates.
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
]

BUILDERS: dict[str, Callable[[], Any]] = {
    "svd": tiny_svd,
    "wan": tiny_wan,
    "wan-experts": lambda: tiny_wan(experts=True),
    "ltx": tiny_ltx,
    "hunyuan_video": tiny_hunyuan,
    "stable_audio": tiny_audio,
}
VIDEOS = ["svd", "wan", "wan-experts", "ltx", "hunyuan_video"]
WIDTH, HEIGHT, FRAMES, FPS = 64, 32, 9, 6
FILM = {"image_size": {"width": WIDTH, "height": HEIGHT}, "num_frames": FRAMES, "fps": FPS}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("packed")
    store = SnapshotStore(folder)
    return Packed(folder, {name: pack(build(), store) for name, build in BUILDERS.items()})


def a_picture() -> str:
    return data_uri(Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB"))


def film_of(model: str, **given: object) -> dict[str, object]:
    begins = {"prompt": None, "image_url": a_picture()} if model == "svd" else {}
    return {**FILM, **begins, **given}


def frames_of(content: bytes) -> tuple[np.ndarray, float, float]:
    """(frames, height, width, 3), frames a second, seconds."""
    with av.open(io.BytesIO(content), "r") as file:
        stream = file.streams.video[0]
        rate = stream.average_rate
        assert rate is not None
        assert file.duration is not None
        seconds = file.duration / 1e6
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    return np.stack(frames).astype(int), float(rate), seconds


def original_frames(model: str, steps: int = 2) -> np.ndarray:
    """What the pipeline itself makes of the same request."""
    pipe = BUILDERS[model]()
    given: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "num_frames": FRAMES}
    if model == "svd":
        picture = Image.open(io.BytesIO(base64.b64decode(a_picture().partition(",")[2])))
        given |= {"image": picture, "fps": FPS, "decode_chunk_size": 8}
    else:
        given |= {"prompt": "a red circle above a blue square", "max_sequence_length": TEXT_TOKENS}
        given |= {"frame_rate": FPS} if model == "ltx" else {}
        given |= {"max_sequence_length": 256} if model == "hunyuan_video" else {}
    made = pipe(
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        **given,
    )
    found: np.ndarray = (made.frames[0] * 255).round().astype(int)
    return found


def coarse(frames: np.ndarray) -> np.ndarray:
    """The mean of every 8 x 8 pixels."""
    blocks = frames.reshape(len(frames), HEIGHT // 8, 8, WIDTH // 8, 8, 3)
    means: np.ndarray = blocks.mean(axis=(2, 4))
    return means


@pytest.mark.parametrize("model", VIDEOS)
@pytest.mark.parametrize("container", ["mp4", "webm"])
async def test_a_video_plays_with_the_frames_that_the_pipeline_makes(
    studio: Studio, model: str, container: str
) -> None:
    end = await studio.draw(model, **film_of(model, output_format=container))
    (artifact,) = end.artifacts
    assert (artifact.name, artifact.content_type) == (f"video.{container}", f"video/{container}")
    assert (artifact.width, artifact.height) == (WIDTH, HEIGHT)
    assert artifact.duration_ms == FRAMES * 1000 // FPS
    frames, rate, seconds = frames_of(studio.file(artifact))
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert rate == pytest.approx(FPS, rel=0.01)
    assert seconds == pytest.approx(FRAMES / FPS, rel=0.02)
    told = json.loads(end.output_json)
    assert (told["seed"], told["num_frames"], told["fps"]) == (7, FRAMES, FPS)
    assert ("prompt" in told) == (model != "svd")
    # Encoding loses detail of what is nearly noise, and nothing else.
    assert np.abs(coarse(frames) - coarse(original_frames(model))).max() < 12


@pytest.mark.parametrize("model", ["svd", "wan", "ltx", "hunyuan_video"])
async def test_the_same_seed_films_the_same_bytes_and_another_seed_others(
    studio: Studio, model: str
) -> None:
    digests = [
        (await studio.draw(model, **film_of(model, seed=seed))).artifacts[0].sha256
        for seed in (7, 7, 8)
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("model", VIDEOS)
async def test_previews_move_and_come_at_the_first_step_and_then_every_so_many(
    studio: Studio, model: str
) -> None:
    await studio.draw(model, **film_of(model, num_inference_steps=6, preview_every=2))
    previews = [message.event.preview for message in studio.session.seen("preview")]
    assert [(p.step, p.image_index) for p in previews] == [(step, 0) for step in (1, 2, 4, 6)]
    steps: list[np.ndarray] = []
    for preview in previews:
        picture = Image.open(io.BytesIO(preview.data))
        assert preview.content_type == "image/webp"
        assert picture.size == (preview.width, preview.height)
        # LTX has a latent frame for eight, Wan for four.
        assert getattr(picture, "n_frames", 1) == {"svd": 8, "ltx": 2}.get(model, 3)
        steps.append(np.asarray(picture.convert("RGB"), dtype=int))
    apart = [np.abs(step - steps[-1]).mean() for step in steps]
    assert apart[0] > apart[2], "previews come closer to what is made"


@pytest.mark.parametrize("model", ["svd", "wan", "hunyuan_video", "stable_audio"])
async def test_a_run_is_cancelled_between_two_steps(studio: Studio, model: str) -> None:
    film = film_of(model) if model in VIDEOS else {}
    attempt = studio.ask(model, {**film, "num_inference_steps": 500})
    await studio.session.next("progress", attempt)
    studio.session.cancel(attempt)
    end = await studio.session.finished(attempt)
    assert end.outcome == CANCELLED
    assert not end.artifacts
    assert len(studio.session.seen("progress", attempt)) < 500
    fresh = await studio.draw(model, **film)
    again = await studio.draw(model, **film)
    assert fresh.artifacts[0].sha256 == again.artifacts[0].sha256


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        ("wan", {"num_frames": 10}, "input.num_frames"),
        ("ltx", {"num_frames": 13}, "input.num_frames"),
        ("wan", {"image_size": {"width": 40, "height": 32}}, "input.image_size.width"),
        ("wan", {"fps": 0}, "input.fps"),
        ("wan", {"output_format": "gif"}, "input.output_format"),
        ("wan", {"prompt": "red circle " * 20}, "text_encoder reads at most 16"),
        ("wan", {"image_url": "data:image/png;base64,AAAA"}, "image_url"),
        ("hunyuan_video", {"num_frames": 10}, "input.num_frames"),
        ("hunyuan_video", {"prompt": "red circle " * 128}, "text_encoder reads at most 256"),
        ("hunyuan_video", {"negative_prompt": "blue"}, "negative_prompt"),
        ("svd", {"image_url": None}, "image_url"),
        ("svd", {"image_url": "http://169.254.169.254/a.png"}, "which workers do not fetch"),
        ("svd", {"motion_bucket_id": 256}, "input.motion_bucket_id"),
        ("stable_audio", {"seconds_total": 9.0}, "input.seconds_total"),
        ("stable_audio", {"seconds_start": 4.0, "seconds_total": 6.0}, "pieces end at 8.00"),
    ],
)
async def test_what_is_wrong_with_an_input_is_named(
    studio: Studio, model: str, given: dict[str, object], told: str
) -> None:
    film = film_of(model) if model in VIDEOS else {}
    failure = await studio.fail(model, **{**film, **given})
    assert failure.reason == "INVALID_INPUT"
    assert told in failure.message


async def test_a_sound_plays_as_long_and_as_loud_as_the_pipeline_makes_it(studio: Studio) -> None:
    end = await studio.draw("stable_audio", seconds_start=1.0, seconds_total=4.0)
    (artifact,) = end.artifacts
    assert (artifact.name, artifact.content_type) == ("audio.wav", "audio/wav")
    assert (artifact.duration_ms, artifact.width) == (4000, 0)
    with wave.open(io.BytesIO(studio.file(artifact))) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, channels)
    assert (rate, channels, len(samples)) == (16, 2, 4 * 16)
    made = tiny_audio()(
        "a red circle above a blue square",
        audio_start_in_s=1.0,
        audio_end_in_s=5.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).audios[0]
    expected = (made.clamp(-1, 1) * 32767).round().numpy().astype(int)
    assert np.array_equal(samples.T, expected)
    assert np.abs(samples).max() > 0
    assert json.loads(end.output_json)["sample_rate"] == rate


async def test_flac_holds_the_samples_of_the_wav(studio: Studio) -> None:
    files = [
        studio.file((await studio.draw("stable_audio", output_format=kind)).artifacts[0])
        for kind in ("wav", "flac")
    ]
    with wave.open(io.BytesIO(files[0])) as file:
        raw = file.readframes(file.getnframes())
    with av.open(io.BytesIO(files[1]), "r") as coded:
        rows = [frame.to_ndarray() for frame in coded.decode(audio=0)]
    assert np.concatenate(rows, axis=1).astype("<i2").tobytes() == raw


async def test_steps_of_a_sound_are_told_and_no_previews(studio: Studio) -> None:
    await studio.draw("stable_audio", num_inference_steps=3)
    told = [message.event.progress for message in studio.session.seen("progress")]
    assert [(each.step, each.steps) for each in told] == [(1, 3), (2, 3), (3, 3)]
    assert not studio.session.seen("preview")


async def test_without_the_library_a_video_is_refused_before_it_runs_and_sounds_are_made(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    failure: types_pb2.Failure = await studio.fail("wan", **film_of("wan"))
    assert failure.reason == "ENGINE_FAILED"
    assert "quickthaw[media]" in failure.message
    assert not studio.session.seen("progress")
    assert (await studio.draw("stable_audio")).artifacts
