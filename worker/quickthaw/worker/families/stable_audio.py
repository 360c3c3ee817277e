"""Stable Audio: sounds from a text. It always makes a piece of its full length, and cuts it."""

from __future__ import annotations

from typing import Any

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker.families.base import MakesSound
from quickthaw.worker.inputs import SoundInput


class StableAudio(MakesSound):
    def arguments(self, pipe: Any, request: SoundInput) -> dict[str, Any]:
        end = request.seconds_start + request.seconds_total
        config = pipe.vae.config
        longest = pipe.transformer.config.sample_size * pipe.vae.hop_length / config.sampling_rate
        if end > longest:
            told = (
                f"is {request.seconds_total:g}, which with seconds_start ends at {end:g}; this "
                f"model's pieces end at {longest:.2f}"
            )
            raise InvalidInput(
                f"input.seconds_total {told}",
                violations=(FieldViolation("input.seconds_total", told),),
            )
        return {
            "prompt": request.prompt,
            # None is not the same as an empty text: the model then goes without one.
            "negative_prompt": request.negative_prompt or None,
            "audio_start_in_s": request.seconds_start,
            "audio_end_in_s": end,
            "guidance_scale": request.guidance_scale,
        }

    def sample_rate(self, pipe: Any) -> int:
        return int(pipe.vae.config.sampling_rate)


FAMILY = StableAudio()
