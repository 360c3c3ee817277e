"""Runs one request for pictures on a loaded pipeline, in the calling thread."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from quickthaw.wire.errors import EngineFailed, InvalidInput
from quickthaw.wire.limits import PREVIEW_BYTES_MAX
from quickthaw.worker.ahead import Answers, Encoded
from quickthaw.worker.attempts import OutputFile, RunResult
from quickthaw.worker.families.base import TextToImage
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.pictures import Pictures
from quickthaw.worker.ports import RunSink, RunStopped, StopSignal
from quickthaw.worker.previews import CONTENT_TYPE, LinearMap, PreviewPainter, StepRecorder

SEED_BITS = 63
_SEED_MODULUS = 1 << 64
_PIL_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}

encode_lock = threading.RLock()
"""Tokenizers keep truncation and padding as state and are shared between models of one process."""


def own_pipeline(pipe: Any, answers: Answers | None = None) -> Any:
    """A copy for one request: the same modules, its own scheduler and attributes.

    `answers`: what its `encode_prompt` has answered before.

    Schedulers count steps, so two requests on one scheduler draw each other's pictures.
    """
    clone = copy.copy(pipe)
    scheduler = pipe.scheduler
    settings = {name: value for name, value in scheduler.config.items() if name[0] != "_"}
    clone.scheduler = type(scheduler)(**settings)
    clone.set_progress_bar_config(disable=True)
    encode = clone.encode_prompt

    def encode_alone(*args: Any, **kwargs: Any) -> Any:
        with encode_lock:
            return (answers or Answers()).ask(encode, *args, **kwargs)

    clone.encode_prompt = encode_alone
    return clone


@contextlib.contextmanager
def weights_kept(module: Any) -> Iterator[None]:
    """Puts a module's tensors back afterwards.

    SDXL's pipeline casts a half-precision VAE up and down in every call, which would move its
    weights off the snapshot's buffer into memory that nobody accounts for.
    """
    kept = [
        (slots, name, tensor, tensor.data)
        for part in module.modules()
        for slots in (part._parameters, part._buffers)
        for name, tensor in slots.items()
        if tensor is not None
    ]
    try:
        yield
    finally:
        # A cast gives parameters other data and replaces buffers altogether.
        for slots, name, tensor, data in kept:
            tensor.data = data
            slots[name] = tensor


def draw(
    pipe: Any,
    family: TextToImage,
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
    _raise_if(stop)
    began = time.monotonic()
    clone = own_pipeline(pipe if pictures is None else _over(pipe, family, pictures), answers)
    with encode_lock:
        family.check_prompts(clone, request, sink.log)
    seed = request.seed if request.seed is not None else secrets.randbits(SEED_BITS)
    generators = generators_of(seed, request.num_images)
    steps = _Steps(clone, family, request, linear, sink, stop, began)
    upcasts = bool(getattr(clone.vae.config, "force_upcast", False))
    with (
        torch.inference_mode(),
        weights_kept(clone.vae) if upcasts else contextlib.nullcontext(),
    ):
        output = clone(
            generator=generators,
            callback_on_step_end=steps,
            callback_on_step_end_tensor_inputs=["latents"],
            **_with_pictures(clone, arguments(clone, family, request), pictures, request.strength),
        )
    _raise_if(stop)
    files = tuple(encoded(output.images, request.output_format))
    flagged = getattr(output, "nsfw_content_detected", None)
    told = {
        "prompt": request.prompt,
        "seed": seed,
        "has_nsfw_concepts": [bool(flag) for flag in flagged] if flagged else [False] * len(files),
    }
    return RunResult(files, json.dumps(told), seed, steps.first_step_seconds)


def generators_of(seed: int, images: int) -> list[torch.Generator]:
    """One for each image; on the CPU whatever the device is."""
    return [
        torch.Generator("cpu").manual_seed((seed + index) % _SEED_MODULUS)
        for index in range(images)
    ]


def encode_ahead(pipe: Any, family: TextToImage, request: ImageInput) -> Answers:
    """Encodes the request's prompt and nothing else, for a `draw` of the same later."""
    answers = Answers()
    answers.asking = True
    clone = own_pipeline(pipe, answers)
    with torch.inference_mode(), contextlib.suppress(Encoded):
        clone(generator=torch.Generator("cpu"), **arguments(clone, family, request))
    answers.asking = False
    return answers


def _over(pipe: Any, family: TextToImage, pictures: Pictures) -> Any:
    """The same components in the pipeline that begins with a picture. Raises InvalidInput."""
    import diffusers

    name = family.image_to_image if pictures.mask is None else family.inpainting
    if not name:
        raise InvalidInput("this model's family draws from text only: leave out image_url")
    kind = getattr(diffusers, name)
    wanted = inspect.signature(kind.__init__).parameters
    return kind(**{part: each for part, each in pipe.components.items() if part in wanted})


def _with_pictures(
    clone: Any, given: dict[str, Any], pictures: Pictures | None, strength: float
) -> dict[str, Any]:
    if pictures is None:
        return given
    given |= {"image": pictures.image, "strength": strength}
    if pictures.mask is not None:
        given["mask_image"] = pictures.mask
    # Not all of these pipelines take a size: the picture has it.
    known = inspect.signature(type(clone).__call__).parameters
    return {name: value for name, value in given.items() if name in known}


def arguments(clone: Any, family: TextToImage, request: ImageInput) -> dict[str, Any]:
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


class _Steps:
    """The pipeline's callback after each step: progress, previews, and the place to stop."""

    def __init__(
        self,
        pipe: Any,
        family: TextToImage,
        request: ImageInput,
        linear: LinearMap | None,
        sink: RunSink,
        stop: StopSignal,
        began: float,
    ) -> None:
        self.first_step_seconds = 0.0
        self._pipe = pipe
        self._family = family
        self._request = request
        self._sink = sink
        self._stop = stop
        self._began = began
        self._painter: PreviewPainter | None = None
        self._recorder: StepRecorder | None = None
        if linear is not None and request.preview_every > 0:
            self._painter = PreviewPainter(linear, pipe.vae_scale_factor)
            self._recorder = StepRecorder(pipe.scheduler)

    def __call__(
        self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        # Raising is the one way out that every pipeline takes at once, without decoding.
        _raise_if(self._stop)
        step, steps = index + 1, int(pipe.num_timesteps)
        if index == 0:
            self.first_step_seconds = time.monotonic() - self._began
        self._sink.progress(step, steps)
        if self._painter is not None and (step == 1 or step % self._request.preview_every == 0):
            self._preview(step, tensors["latents"])
        return {}

    def _preview(self, step: int, latents: torch.Tensor) -> None:
        assert self._painter is not None
        if self._recorder is not None:
            latents = self._recorder.predicted(latents)
        pictures = self._family.latent_pictures(self._pipe, latents, self._request)
        for image_index, (data, size) in enumerate(self._painter.paint(pictures)):
            if len(data) <= PREVIEW_BYTES_MAX:
                self._sink.preview(step, image_index, CONTENT_TYPE, data, size)


def _raise_if(stop: StopSignal) -> None:
    if stop.is_set():
        raise RunStopped


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
