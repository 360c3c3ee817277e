"""Runs one request for a video on a loaded pipeline, in the calling thread."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from quickthaw.wire.errors import EngineFailed
from quickthaw.worker.ahead import Answers
from quickthaw.worker.attempts import OutputFile, RunResult
from quickthaw.worker.decoding import decode_video
from quickthaw.worker.families.base import MakesVideo
from quickthaw.worker.inputs import VideoInput
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
from quickthaw.worker.previews import MOVING_CONTENT_TYPE, LinearMap, PreviewPainter, StepRecorder
from quickthaw.worker.steps import Paint, Steps, raise_if
from quickthaw.worker.video_files import VideoCodec, choose, encode


def film(
    pipe: Any,
    family: MakesVideo,
    request: VideoInput,
    linear: LinearMap | None,
    sink: RunSink,
    stop: StopSignal,
    answers: Answers | None = None,
    pictures: Pictures | None = None,
    codec: VideoCodec = VideoCodec.AUTO,
) -> RunResult:
    """`pictures`: what it begins and ends with. Raises as `drawing.draw`.

    The frames leave the device one by one, into the encoder. The seed's generator is the CPU's
    whatever the device is.
    """
    raise_if(stop)
    chosen = choose(request.output_format, codec)
    began = time.monotonic()
    clone = own_pipeline(pipeline_over(pipe, family.over(pipe, pictures)), answers)
    with encode_lock:
        family.check_prompts(clone, request, sink.log)
    seed = seed_of(request.seed)
    paint = _painting(clone, family, request, linear, sink)
    steps = Steps(sink, stop, began, request.preview_every, paint)
    decode_video(pipe, clone, request.size, request.num_frames, lambda: raise_if(stop))
    with torch.inference_mode(), vae_kept(clone):
        output = clone(
            generator=generators_of(seed, 1)[0],
            callback_on_step_end=steps,
            callback_on_step_end_tensor_inputs=["latents"],
            **arguments(clone, family, request, pictures),
        )
        frames = output.frames[0]
        count, _, height, width = frames.shape
        data = encode(_pixels(frames, stop), (width, height), request.fps, chosen)
    file = OutputFile(
        name=f"video.{chosen.container}",
        content_type=chosen.content_type,
        data=data,
        width=width,
        height=height,
        duration_ms=round(count * 1000 / request.fps),
    )
    told = {"seed": seed, "num_frames": count, "fps": request.fps}
    if request.prompt:
        told = {"prompt": request.prompt, **told}
    return RunResult((file,), json.dumps(told), seed, steps.first_step_seconds)


def arguments(
    clone: Any, family: MakesVideo, request: VideoInput, pictures: Pictures | None
) -> dict[str, Any]:
    """What the pipeline is called with, beside generators and callbacks."""
    return {
        "width": request.width,
        "height": request.height,
        "num_frames": request.num_frames,
        "num_inference_steps": request.num_inference_steps,
        "output_type": "pt",
        **family.arguments(clone, request, pictures),
    }


def _pixels(frames: torch.Tensor, stop: StopSignal) -> Iterator[np.ndarray]:
    """`frames`: (frames, 3, height, width) in 0..1. Raises RunStopped, and EngineFailed for a frame
    that is not finite."""
    for frame in frames:
        raise_if(stop)
        if not torch.isfinite(frame).all():
            raise EngineFailed(
                "the model made a video that is not finite (NaN); its weights do not suit this "
                "precision, or the snapshot is incomplete"
            )
        levels = (frame.float() * 255).round().clamp(0, 255).to(torch.uint8)
        yield levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _painting(
    pipe: Any, family: MakesVideo, request: VideoInput, linear: LinearMap | None, sink: RunSink
) -> Paint | None:
    if linear is None or request.preview_every == 0:
        return None
    painter = PreviewPainter(linear, family.latent_pixels(pipe))
    recorder = StepRecorder(pipe.scheduler)
    seconds = request.num_frames / request.fps

    def paint(step: int, latents: torch.Tensor) -> None:
        frames = family.latent_frames(pipe, recorder.predicted(latents), request)
        if (made := painter.animate(frames, seconds)) is not None:
            data, size = made
            sink.preview(step, 0, MOVING_CONTENT_TYPE, data, size)

    return paint
