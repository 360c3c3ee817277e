"""Prompts that are encoded while their model loads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quickthaw.snapshot import LoadProgress, SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import fleet_pb2
from quickthaw.worker import rehearsal
from quickthaw.worker.ahead import Answers, Encoded
from quickthaw.worker.attempts import OutputFile
from quickthaw.worker.convert import assignment_from
from quickthaw.worker.drawing import draw
from quickthaw.worker.families import adapter, picture_adapter
from quickthaw.worker.families.base import MakesVideo
from quickthaw.worker.filming import film
from quickthaw.worker.inputs import ImageInput, VideoInput
from quickthaw.worker.making import encode_ahead, reader_of
from quickthaw.worker.own_pipeline import encode_lock
from quickthaw.worker.turns import Turns
from support.hunyuan_models import tiny_hunyuan
from support.listening import Nobody
from support.snapshots import a_loader
from support.tiny_models import tiny_flux, tiny_sd, tiny_sdxl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PIPELINES: dict[str, Callable[[], Any]] = {"sd": tiny_sd, "sdxl": tiny_sdxl, "flux": tiny_flux}
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
FILM = VideoInput(
    prompt="a red circle",
    negative_prompt="",
    width=32,
    height=32,
    num_frames=5,
    fps=8,
    num_inference_steps=2,
    guidance_scale=6.0,
    seed=1,
    output_format="mp4",
    preview_every=0,
)


def drawn(pipe: Any, family: str, answers: Answers | None = None) -> bytes:
    result = draw(pipe, picture_adapter(family), REQUEST, None, Nobody(), Nobody(), answers)
    return result.files[0].data


@pytest.mark.parametrize("family", PIPELINES)
def test_a_run_draws_the_same_without_encoding_again(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = PIPELINES[family]()
    picture = drawn(pipe, family)
    answers = encode_ahead(pipe, picture_adapter(family), REQUEST)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the prompt was encoded already")

    monkeypatch.setattr(pipe.text_encoder, "forward", refuse)
    assert drawn(pipe, family, answers) == picture
    with pytest.raises(AssertionError, match="encoded already"):
        drawn(pipe, family, answers)  # an answer serves one run


def test_a_prompt_that_is_asked_for_with_its_template_is_encoded_ahead_and_nothing_else_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe, family = tiny_hunyuan(), adapter("hunyuan_video")
    assert isinstance(family, MakesVideo)

    def filmed(answers: Answers | None = None) -> OutputFile:
        (file,) = film(pipe, family, FILM, None, Nobody(), Nobody(), answers).files
        return file

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this is not to run")

    video = filmed()
    with monkeypatch.context() as patched:
        patched.setattr(pipe.transformer, "forward", refuse)
        answers = encode_ahead(pipe, family, FILM)
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        monkeypatch.setattr(encoder, "forward", refuse)
    assert filmed(answers) == video
    with pytest.raises(AssertionError, match="not to run"):
        filmed()


def test_another_question_is_asked_again() -> None:
    answers = Answers()
    answers.asking = True
    asked: list[str] = []

    def encode(text: str) -> str:
        asked.append(text)
        return text.upper()

    with pytest.raises(Encoded):
        answers.ask(encode, "a circle")
    answers.asking = False
    assert answers.ask(encode, "a square") == "A SQUARE"
    assert answers.ask(encode, "a circle") == "A CIRCLE"
    assert asked == ["a circle", "a square"]


def test_a_question_that_text_does_not_tell_apart_is_never_remembered() -> None:
    answers = Answers()
    answers.asking = True
    assert answers.ask(lambda value: value.sum().item(), torch.ones(3)) == 3
    answers.asking = False
    assert answers.ask(lambda value: value.sum().item(), torch.zeros(3)) == 0


def test_encoding_does_not_wait_for_the_denoiser(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    digest = pack(tiny_sd(), store)
    go_on = threading.Event()

    def hold_the_denoiser(progress: LoadProgress) -> None:
        if progress.component == "unet":
            assert go_on.wait(30)

    with a_loader(store) as loader:
        loaded = loader.load(digest, overlap=True, on_progress=hold_the_denoiser)
        answers = encode_ahead(loaded.pipeline, picture_adapter("sd"), REQUEST)
        assert not go_on.is_set()
        go_on.set()
        loaded.wait()
        assert drawn(loaded.pipeline, "sd", answers) == drawn(loaded.pipeline, "sd")
        loaded.release()


def test_other_runs_encode_while_an_encoder_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SnapshotStore(tmp_path)
    digest = pack(tiny_sdxl(), store)
    go_on, encoding = threading.Event(), threading.Event()
    found: list[Answers | None] = []

    def hold_the_second(progress: LoadProgress) -> None:
        if progress.component == "text_encoder_2":
            assert go_on.wait(30)

    with a_loader(store, readers=1) as loader:
        loaded = loader.load(digest, overlap=True, on_progress=hold_the_second)
        forward = loaded.pipeline.text_encoder.forward

        def first(*args: Any, **kwargs: Any) -> Any:
            encoding.set()
            return forward(*args, **kwargs)

        monkeypatch.setattr(loaded.pipeline.text_encoder, "forward", first)
        reader = reader_of("sdxl", loaded.manifest.input_schema)
        assignment = assignment_from(fleet_pb2.Assign(input_json='{"prompt": "a circle"}'))
        work = threading.Thread(
            target=lambda: found.append(rehearsal.encode(loaded, reader, assignment))
        )
        work.start()
        assert not encoding.wait(0.2)
        assert encode_lock.acquire(timeout=30)
        encode_lock.release()
        go_on.set()
        work.join(30)
        assert found[0] is not None
        assert encoding.is_set()
        loaded.release()


def test_without_waiting_a_turn_is_not_taken_from_another() -> None:
    turns = Turns()
    with turns.of(frozenset({"vae", "unet"})) as mine:
        assert mine
        with turns.of(frozenset({"vae"}), wait=False) as others:
            assert not others
        with turns.of(frozenset({"text"}), wait=False) as apart:
            assert apart
    with turns.of(frozenset({"vae"}), wait=False) as after:
        assert after
