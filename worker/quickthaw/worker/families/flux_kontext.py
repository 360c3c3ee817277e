"""Flux Kontext: draws a picture again, changed as the prompt says."""

from __future__ import annotations

from typing import Any

from quickthaw.worker.families.base import shaped
from quickthaw.worker.families.flux import Flux
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.pictures import Pictures

_PREFERRED_BY = 8
"""Pixels of a latent pixel in the model that the pipeline's list of sizes to read pictures at is
for."""


SIDE_OF_LATENTS = 128
"""Of the squares that the model was trained with."""


class FluxKontext(Flux):
    needs = ("image_url",)

    def settled(self, pipe: Any, request: ImageInput, pictures: Pictures | None) -> ImageInput:
        """Of the picture's shape, with as many pixels as the model was trained with."""
        side = SIDE_OF_LATENTS * pipe.vae_scale_factor
        return shaped(request, pictures, side, step=pipe.vae_scale_factor * 2)

    def picture_arguments(
        self, pipe: Any, request: ImageInput, pictures: Pictures
    ) -> dict[str, Any]:
        return {
            "image": pictures.image,
            # Else it changes the size to one of about a megapixel.
            "max_area": request.width * request.height,
            "_auto_resize": pipe.vae_scale_factor == _PREFERRED_BY,
        }


FAMILY = FluxKontext()
