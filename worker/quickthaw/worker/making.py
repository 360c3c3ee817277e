"""Runs a request on a loaded pipeline: the one place that tells media apart."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import torch

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker import drawing, filming, recording
from quickthaw.worker.ahead import Answers, Encoded
from quickthaw.worker.attempts import RunResult
from quickthaw.worker.families import adapter
from quickthaw.worker.families.base import Family, MakesPictures, MakesSound, MakesVideo
from quickthaw.worker.inputs import (
    ImageInput,
    InputReader,
    Parse,
    RunInput,
    SoundInput,
    VideoInput,
    image_input,
    sound_input,
    video_input,
)
from quickthaw.worker.own_pipeline import own_pipeline
from quickthaw.worker.pictures import Pictures, ReadBlob, open_pictures
from quickthaw.worker.ports import RunSink, StopSignal
from quickthaw.worker.previews import LinearMap
from quickthaw.worker.video_files import VideoCodec


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of a run, and may end it."""

    sink: RunSink
    stop: StopSignal


def reader_of(family_name: str, schema: Mapping[str, Any]) -> InputReader:
    """Of inputs to a model of the family. Raises SnapshotInvalid for an unusable schema, and
    InvalidArgument for an unknown family."""
    parse: Parse
    family = adapter(family_name)
    match family:
        case MakesPictures():
            parse = image_input
        case MakesVideo():
            parse = video_input
        case MakesSound():
            parse = sound_input
        case _:
            assert_never(family)
    return InputReader(schema, parse)


def brought(family: Family, request: RunInput, read_blob: ReadBlob) -> Pictures | None:
    """The pictures that a request begins with. Raises InvalidInput, naming the field."""
    if isinstance(request, SoundInput) or isinstance(family, MakesSound):
        return None
    for field in family.needs:
        if not getattr(request, field):
            told = "is empty: this model makes nothing without it"
            raise InvalidInput(
                f"input.{field} {told}", violations=(FieldViolation(f"input.{field}", told),)
            )
    looked_at = isinstance(family, MakesPictures) and family.looks
    return open_pictures(request.pictures, None if looked_at else request.size, read_blob)


def make(
    pipe: Any,
    family: Family,
    request: RunInput,
    linear: LinearMap | None,
    listener: Listener,
    answers: Answers | None,
    pictures: Pictures | None,
    codec: VideoCodec,
) -> RunResult:
    """`request` is from `reader_of` the family. Raises as `drawing.draw`."""
    sink, stop = listener.sink, listener.stop
    match family, request:
        case MakesPictures(), ImageInput():
            return drawing.draw(pipe, family, request, linear, sink, stop, answers, pictures)
        case MakesVideo(), VideoInput():
            return filming.film(pipe, family, request, linear, sink, stop, answers, pictures, codec)
        case MakesSound(), SoundInput():
            return recording.record(pipe, family, request, sink, stop, answers)
        case _:
            raise AssertionError("an input is read by its own family's reader")


def encode_ahead(pipe: Any, family: Family, request: RunInput) -> Answers | None:
    """Encodes the request's prompt and nothing else, for a `make` of the same later; None for what
    begins with a picture or brings LoRAs."""
    answers = Answers()
    answers.asking = True
    clone = own_pipeline(pipe, answers)
    match family, request:
        # A LoRA may change what the text encoders say.
        case MakesPictures(), ImageInput() if not request.image_url and not request.loras:
            given = drawing.arguments(clone, family, request)
        case MakesVideo(), VideoInput() if not request.image_url:
            given = filming.arguments(clone, family, request, None)
        case MakesSound(), SoundInput():
            given = recording.arguments(clone, family, request)
        case _:
            return None
    with torch.inference_mode(), contextlib.suppress(Encoded):
        clone(generator=torch.Generator("cpu"), **given)
    answers.asking = False
    return answers
