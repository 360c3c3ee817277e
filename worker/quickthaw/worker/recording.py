"""Runs one request for a sound on a loaded pipeline, in the calling thread.

Without previews: what lies between the steps can be heard only through the decoder, which takes as
long as several steps, and a picture of it would say nothing of how it sounds.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from quickthaw.wire.errors import EngineFailed
from quickthaw.worker import sound_files
from quickthaw.worker.ahead import Answers
from quickthaw.worker.attempts import OutputFile, RunResult
from quickthaw.worker.families.base import MakesSound
from quickthaw.worker.inputs import SoundInput
from quickthaw.worker.own_pipeline import (
    encode_lock,
    generators_of,
    own_pipeline,
    seed_of,
    vae_kept,
)
from quickthaw.worker.ports import RunSink, StopSignal
from quickthaw.worker.steps import Steps, raise_if


def record(
    pipe: Any,
    family: MakesSound,
    request: SoundInput,
    sink: RunSink,
    stop: StopSignal,
    answers: Answers | None = None,
) -> RunResult:
    """Raises as `drawing.draw`. The seed's generator is the CPU's whatever the device is."""
    raise_if(stop)
    sound_files.check(request.output_format)
    began = time.monotonic()
    clone = own_pipeline(pipe, answers)
    with encode_lock:
        family.check_prompts(clone, request, sink.log)
    seed = seed_of(request.seed)
    steps = Steps(sink, stop, began)

    # This pipeline's callback is of an older form than the others'.
    def stepped(index: int, timestep: Any, latents: torch.Tensor) -> None:
        steps.done(index + 1, request.num_inference_steps, latents)

    with torch.inference_mode(), vae_kept(clone):
        output = clone(
            generator=generators_of(seed, 1)[0],
            callback=stepped,
            callback_steps=1,
            **arguments(clone, family, request),
        )
        samples = output.audios[0].float().cpu()
    raise_if(stop)
    if not torch.isfinite(samples).all():
        raise EngineFailed(
            "the model made a sound that is not finite (NaN); its weights do not suit this "
            "precision, or the snapshot is incomplete"
        )
    rate = family.sample_rate(clone)
    duration_ms = round(samples.shape[-1] * 1000 / rate)
    file = OutputFile(
        name=f"audio.{request.output_format}",
        content_type=sound_files.CONTENT_TYPES[request.output_format],
        data=sound_files.encode(samples.numpy(), rate, request.output_format),
        duration_ms=duration_ms,
    )
    told = {
        "prompt": request.prompt,
        "seed": seed,
        "seconds_total": duration_ms / 1000,
        "sample_rate": rate,
    }
    return RunResult((file,), json.dumps(told), seed, steps.first_step_seconds)


def arguments(clone: Any, family: MakesSound, request: SoundInput) -> dict[str, Any]:
    """What the pipeline is called with, beside generators and callbacks."""
    return {
        "num_inference_steps": request.num_inference_steps,
        "output_type": "pt",
        **family.arguments(clone, request),
    }
