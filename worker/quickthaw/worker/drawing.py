"""Runs one request for pictures on a loaded pipeline, in the calling thread."""

from __future__ import annotations

import inspect
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from quickthaw.wire.errors import EngineFailed
from quickthaw.wire.limits import PREVIEW_BYTES_MAX
from quickthaw.worker.ahead import Answers
from quickthaw.worker.attempts import OutputFile, RunResult
from quickthaw.worker.decoding import decode_pictures
from quickthaw.worker.families.base import MakesPictures
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.own_pipeline import (
    encode_lock,
    generators_of,
    own_pipeline,
    pipeline_over,
    seed_of,
    vae_kept,
)
from quickthaw.worker.pictures import Pictures
from quickthaw.worker.ports import RunSink, StopSignal
from quickthaw.worker.previews import CONTENT_TYPE, LinearMap, PreviewPainter, StepRecorder
from quickthaw.worker.steps import Paint, Steps, raise_if

_PIL_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def draw(
    pipe: Any,
    family: MakesPictures,
    request: ImageInput,
    linear: LinearMap | None,
    sink: RunSink,
    stop: StopSignal,
    answers: Answers | None = None,
    pictures: Pictures | None = None,
) -> RunResult:
    """`pictures`: what to begin with. Raises RunStopped, InvalidInput, EngineFailed and whatever
    the pipeline raises.

    Image i of a request is drawn from its own generator with seed + i, on the CPU whatever the
    device is, so it can be drawn again alone and elsewhere.
    """
    raise_if(stop)
    began = time.monotonic()
    clone = own_pipeline(pipeline_over(pipe, family.over(pipe, pictures)), answers)
    request = family.settled(clone, request, pictures)
    with encode_lock:
        family.check_prompts(clone, request, sink.log)
    seed = seed_of(request.seed)
    paint = _painting(clone, family, request, linear, sink)
    steps = Steps(sink, stop, began, request.preview_every, paint)
    size = request.width, request.height
    decode_pictures(pipe, clone, size, request.num_images, lambda: raise_if(stop))
    with torch.inference_mode(), vae_kept(clone):
        output = clone(
            generator=generators_of(seed, request.num_images),
            callback_on_step_end=steps,
            callback_on_step_end_tensor_inputs=["latents"],
            **_with_pictures(clone, family, request, pictures),
        )
    raise_if(stop)
    files = tuple(encoded(output.images, request.output_format))
    flagged = getattr(output, "nsfw_content_detected", None)
    told = {
        "prompt": request.prompt,
        "seed": seed,
        "has_nsfw_concepts": [bool(flag) for flag in flagged] if flagged else [False] * len(files),
    }
    return RunResult(files, json.dumps(told), seed, steps.first_step_seconds)


def _with_pictures(
    clone: Any, family: MakesPictures, request: ImageInput, pictures: Pictures | None
) -> dict[str, Any]:
    given = arguments(clone, family, request)
    if pictures is None:
        return given
    given |= family.picture_arguments(clone, request, pictures)
    # Not all of these pipelines take a size, say: the picture has it.
    known = inspect.signature(type(clone).__call__).parameters
    return {name: value for name, value in given.items() if name in known}


def arguments(clone: Any, family: MakesPictures, request: ImageInput) -> dict[str, Any]:
    """What the pipeline is called with, beside generators, callbacks and pictures."""
    return {
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "num_images_per_prompt": request.num_images,
        "output_type": "np",
        **family.arguments(clone, request),
    }


def _painting(
    pipe: Any, family: MakesPictures, request: ImageInput, linear: LinearMap | None, sink: RunSink
) -> Paint | None:
    if linear is None or request.preview_every == 0:
        return None
    painter = PreviewPainter(linear, pipe.vae_scale_factor)
    recorder = StepRecorder(pipe.scheduler)

    def paint(step: int, latents: torch.Tensor) -> None:
        pictures = family.latent_pictures(pipe, recorder.predicted(latents), request)
        for image_index, (data, size) in enumerate(painter.paint(pictures)):
            if len(data) <= PREVIEW_BYTES_MAX:
                sink.preview(step, image_index, CONTENT_TYPE, data, size)

    return paint


def encoded(images: Any, output_format: str) -> Iterator[OutputFile]:
    """`images`: float array of shape (images, height, width, 3) in 0..1.

    Raises EngineFailed if one of them is not finite.
    """
    pictures = np.asarray(images)
    if not np.isfinite(pictures).all():
        raise EngineFailed(
            "the model drew a picture that is not finite (NaN); its weights do not suit this "
            "precision, or the snapshot is incomplete"
        )
    for index, picture in enumerate((pictures * 255).round().astype("uint8")):
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, _PIL_FORMATS[output_format])
        height, width = picture.shape[:2]
        yield OutputFile(
            name=f"{index}.{output_format}",
            content_type=f"image/{output_format}",
            data=encoded.getvalue(),
            width=width,
            height=height,
        )
