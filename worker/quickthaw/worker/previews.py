"""Small pictures of an unfinished image or video: predicted x0, a linear map to RGB, a file.

The latents between steps are still mostly noise early on; what the model predicts the clean
latents to be is recognisable from the first step. It follows from what `scheduler.step` is given,
so that is where it is taken, without a call more to the model.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from quickthaw.wire.limits import PREVIEW_BYTES_MAX

SIDE_PIXELS_MAX = 256
JPEG_QUALITY = 80
CONTENT_TYPE = "image/jpeg"

FRAMES_MAX = 8
"""Of a preview that moves, spread over the whole video."""
WEBP_QUALITY = 60
MOVING_CONTENT_TYPE = "image/webp"
"""Animated: whatever shows a picture shows it moving."""

# Schedulers whose sample is x0 + sigma * noise, that is, without the sqrt(alpha) in front of x0.
_VARIANCE_EXPLODING = ("Euler", "LMS", "Heun", "KDPM2")


class LinearMap(Protocol):
    """The manifest's map from latents to RGB in 0..1."""

    @property
    def weights(self) -> Sequence[Sequence[float]]: ...

    @property
    def bias(self) -> Sequence[float]: ...


@dataclass(slots=True)
class _Step:
    model_output: torch.Tensor
    timestep: torch.Tensor | float
    sample: torch.Tensor
    sigma: torch.Tensor | None


class StepRecorder:
    """Watches one scheduler object (a request's own) and remembers its last step's inputs."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._last: _Step | None = None
        original = scheduler.step

        # Pipelines look at the signature to decide what to pass, so it has to stay visible.
        @functools.wraps(original)
        def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
            index = self._index()
            result = original(model_output, timestep, sample, *args, **kwargs)
            # Some schedulers find out their index only in the first step.
            index = index if index is not None else max(0, (self._index() or 1) - 1)
            sigmas = getattr(scheduler, "sigmas", None)
            sigma = sigmas[index] if sigmas is not None and index < len(sigmas) else None
            if (times := kwargs.get("per_token_timesteps")) is not None:
                # Of tokens that have each a time of their own; the output is turned round then.
                sigma = -times[..., None] / scheduler.config.num_train_timesteps
            self._last = _Step(model_output, timestep, sample, sigma)
            return result

        scheduler.step = step

    def _index(self) -> int | None:
        return getattr(self._scheduler, "step_index", None)

    def predicted(self, latents: torch.Tensor) -> torch.Tensor:
        """Predicted x0 at the last step, or `latents` where the scheduler's kind is not known."""
        step = self._last
        if step is None:
            return latents
        output, sample = step.model_output.float(), step.sample.float()
        name = type(self._scheduler).__name__
        kind = getattr(self._scheduler.config, "prediction_type", "epsilon")
        flows = name.startswith("FlowMatch") or kind == "flow_prediction"
        if flows and step.sigma is not None:
            return sample - step.sigma.to(sample.device) * output
        if kind == "sample":
            return output
        if name.startswith(_VARIANCE_EXPLODING) and step.sigma is not None:
            sigma = step.sigma.to(sample.device)
            if kind == "v_prediction":
                return sample / (sigma**2 + 1) - output * sigma / (sigma**2 + 1).sqrt()
            return sample - sigma * output
        cumulative = getattr(self._scheduler, "alphas_cumprod", None)
        if cumulative is None:
            return latents
        alpha: torch.Tensor = cumulative[int(step.timestep)].to(sample.device)
        if kind == "v_prediction":
            return alpha.sqrt() * sample - (1 - alpha).sqrt() * output
        return (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()


class PreviewPainter:
    """Turns latents of shape (images, channels, height, width) into small files."""

    def __init__(self, linear: LinearMap, vae_scale: int) -> None:
        self._weights = torch.tensor([list(row) for row in linear.weights], dtype=torch.float32)
        self._bias = torch.tensor(list(linear.bias), dtype=torch.float32)
        self._vae_scale = vae_scale

    def paint(self, latents: torch.Tensor) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """One encoded picture with its (width, height) for each image; none that is not finite."""
        for image in self._pictures(latents):
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=JPEG_QUALITY)
            yield encoded.getvalue(), image.size

    def animate(
        self, latents: torch.Tensor, seconds: float
    ) -> tuple[bytes, tuple[int, int]] | None:
        """Some frames of a video as one animated picture of at most PREVIEW_BYTES_MAX, with its
        (width, height), and as long as the video; None if they are not finite or too large.

        `latents`: (frames, channels, height, width).
        """
        count = min(FRAMES_MAX, len(latents))
        # The first and the last, and what lies evenly between them.
        places = [round(index * (len(latents) - 1) / max(count - 1, 1)) for index in range(count)]
        frames = list(self._pictures(latents[places]))
        if len(frames) < count:
            return None
        while frames:
            encoded = io.BytesIO()
            frames[0].save(
                encoded,
                "WEBP",
                save_all=True,
                append_images=frames[1:],
                duration=max(20, round(seconds * 1000 / len(frames))),
                loop=0,
                quality=WEBP_QUALITY,
                method=0,
                kmax=0,  # Without frames in between that make it quicker to seek.
            )
            if encoded.tell() <= PREVIEW_BYTES_MAX:
                return encoded.getvalue(), frames[0].size
            frames = frames[: len(frames) // 2]
        return None

    def _pictures(self, latents: torch.Tensor) -> Iterator[Image.Image]:
        """Ends at one that is not finite."""
        # One small transfer; the arithmetic is a millisecond of CPU (3 x channels per pixel).
        on_host = latents.detach().to("cpu", torch.float32)
        pixels = torch.einsum("nchw,cr->nhwr", on_host, self._weights) + self._bias
        finite = torch.isfinite(pixels).flatten(1).all(dim=1).tolist()
        levels = (pixels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        for picture, whole in zip(levels, finite, strict=True):
            if not whole:
                return
            image = Image.fromarray(picture, "RGB")
            yield image.resize(self._size(image.size), Image.Resampling.BICUBIC)

    def _size(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """The picture's own size, or what of it fits into SIDE_PIXELS_MAX."""
        scale = min(float(self._vae_scale), SIDE_PIXELS_MAX / max(latent_size))
        width, height = latent_size
        return max(1, round(width * scale)), max(1, round(height * scale))
