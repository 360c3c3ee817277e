"""Runs several text-to-image requests as one batch on a loaded pipeline, in the calling thread.

What one member gets does not depend on the others but for the order in which a kernel of another
batch size adds up numbers: every picture has its own generator, prompts are padded to one length
whoever is beside them, and what is wrong with one member is its own affair.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from quickthaw.wire.errors import EngineFailed, QuickthawError
from quickthaw.wire.limits import PREVIEW_BYTES_MAX
from quickthaw.worker.attempts import RunResult
from quickthaw.worker.decoding import decode_pictures
from quickthaw.worker.drawing import arguments, encoded
from quickthaw.worker.families.base import MakesPictures
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.own_pipeline import (
    encode_lock,
    generators_of,
    own_pipeline,
    seed_of,
    vae_kept,
)
from quickthaw.worker.ports import RunSink, RunStopped, StopSignal
from quickthaw.worker.previews import CONTENT_TYPE, LinearMap, PreviewPainter, StepRecorder
from quickthaw.worker.steps import FirstStep


def batch_key(request: ImageInput) -> str:
    """Requests for one model with equal keys may share a batch: what a batch has in common. Empty
    for one that begins with a picture or brings LoRAs, which draws alone."""
    if request.image_url or request.mask_url or request.loras:
        return ""
    shape = f"{request.width}x{request.height}x{request.num_images}"
    return f"{shape}/{request.num_inference_steps}/{request.guidance_scale}/{request.lora_scale}"


class Member(NamedTuple):
    """One request of a batch. `on_stopped` is called once, in the run's thread, when it leaves."""

    request: ImageInput
    sink: RunSink
    stop: StopSignal
    on_stopped: Callable[[], None]


End: TypeAlias = RunResult | QuickthawError | None
"""Of a member: what it got, what was wrong with it alone, or None if it was stopped."""


def draw_batch(
    pipe: Any, family: MakesPictures, members: Sequence[Member], linear: LinearMap | None
) -> list[End]:
    """The end of each member, in their order; `batch_key` of all is the same.

    Raises RunStopped when nobody is left, and whatever the pipeline raises. A member that is
    stopped leaves at the next step, though its place in the batch goes on being computed.
    """
    began = time.monotonic()
    clone = own_pipeline(pipe)
    ends: list[End] = [None] * len(members)
    fit: list[int] = []
    for index, member in enumerate(members):
        try:
            with encode_lock:
                family.check_prompts(clone, member.request, member.sink.log)
            fit.append(index)
        except QuickthawError as error:
            ends[index] = error
    if not fit:
        return ends
    drawn = [members[index] for index in fit]
    seeds = [seed_of(member.request.seed) for member in drawn]
    steps = _BatchSteps(clone, family, drawn, linear, began)
    images = _run(pipe, clone, family, drawn, seeds, steps)
    each = drawn[0].request.num_images
    for place, index in enumerate(fit):
        if place not in steps.left:
            pictures = images.images[place * each : (place + 1) * each]
            flags = (images.flagged or [False] * len(images.images))[place * each :][:each]
            ends[index] = _result(
                drawn[place].request, seeds[place], pictures, flags, steps.first_step_seconds
            )
    return ends


class _Images(NamedTuple):
    images: Any
    flagged: list[bool] | None


def _run(
    pipe: Any,
    clone: Any,
    family: MakesPictures,
    members: Sequence[Member],
    seeds: Sequence[int],
    steps: _BatchSteps,
) -> _Images:
    first = members[0].request
    each = first.num_images
    size = first.width, first.height
    decode_pictures(pipe, clone, size, each * len(members), steps.look)
    with torch.inference_mode(), vae_kept(clone):
        output = clone(
            generator=[one for seed in seeds for one in generators_of(seed, each)],
            callback_on_step_end=steps,
            callback_on_step_end_tensor_inputs=["latents"],
            **_joined([arguments(clone, family, member.request) for member in members]),
        )
    flagged = getattr(output, "nsfw_content_detected", None)
    return _Images(output.images, [bool(flag) for flag in flagged] if flagged else None)


def _joined(calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Texts differ and become lists; everything else is what the members have in common."""
    joined = dict(calls[0])
    for name in ("prompt", "negative_prompt"):
        if name in joined:
            joined[name] = [call[name] for call in calls]
    return joined


def _result(
    request: ImageInput, seed: int, pictures: Any, flags: Sequence[bool], first_step_seconds: float
) -> RunResult | EngineFailed:
    try:
        files = tuple(encoded(pictures, request.output_format))
    except EngineFailed as error:
        return error
    told = {"prompt": request.prompt, "seed": seed, "has_nsfw_concepts": list(flags)}
    return RunResult(files, json.dumps(told), seed, first_step_seconds)


class _BatchSteps:
    """The pipeline's callback after each step, for all members: see `drawing`."""

    def __init__(
        self,
        pipe: Any,
        family: MakesPictures,
        members: Sequence[Member],
        linear: LinearMap | None,
        began: float,
    ) -> None:
        self._first = FirstStep(began)
        self.left: set[int] = set()
        """Places of members that were stopped."""
        self._family = family
        self._members = members
        self._pipe = pipe
        self._painter: PreviewPainter | None = None
        self._recorder: StepRecorder | None = None
        if linear is not None and any(member.request.preview_every for member in members):
            self._painter = PreviewPainter(linear, pipe.vae_scale_factor)
            self._recorder = StepRecorder(pipe.scheduler)
        self.look()

    @property
    def first_step_seconds(self) -> float:
        return self._first.seconds

    def look(self) -> None:
        """Lets go of members that were stopped. Raises RunStopped when nobody is left."""
        for place, member in enumerate(self._members):
            if place not in self.left and member.stop.is_set():
                self.left.add(place)
                member.on_stopped()
        if len(self.left) == len(self._members):
            raise RunStopped

    def __call__(
        self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self.look()
        step, steps = index + 1, int(pipe.num_timesteps)
        if index == 0:
            self._first.note(tensors["latents"])
        wanted: list[int] = []
        for place, member in enumerate(self._members):
            if place in self.left:
                continue
            member.sink.progress(step, steps)
            every = member.request.preview_every
            if every and (step == 1 or step % every == 0):
                wanted.append(place)
        if self._painter is not None and wanted:
            self._preview(self._painter, step, tensors["latents"], wanted)
        return {}

    def _preview(
        self, painter: PreviewPainter, step: int, latents: torch.Tensor, wanted: Sequence[int]
    ) -> None:
        if self._recorder is not None:
            latents = self._recorder.predicted(latents)
        request = self._members[0].request
        pictures = self._family.latent_pictures(self._pipe, latents, request)
        each = request.num_images
        for place in wanted:
            mine = pictures[place * each : (place + 1) * each]
            for image_index, (data, size) in enumerate(painter.paint(mine)):
                if len(data) <= PREVIEW_BYTES_MAX:
                    sink = self._members[place].sink
                    sink.preview(step, image_index, CONTENT_TYPE, data, size)
