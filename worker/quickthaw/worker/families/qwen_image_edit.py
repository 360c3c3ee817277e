"""Qwen-Image-Edit: Qwen-Image with pictures that the language model and the denoiser see."""

from __future__ import annotations

from typing import Any

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker.families.base import shaped
from quickthaw.worker.families.qwen_image import QwenImage
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.pictures import Pictures

SIDE = 1024
"""Of the squares that the model was trained with."""
_STRETCH_MAX = 100
"""What is longer would have no width in the sizes that the pipeline looks at it in."""


class QwenImageEdit(QwenImage):
    needs = ("image_url",)
    looks = True

    def settled(self, pipe: Any, request: ImageInput, pictures: Pictures | None) -> ImageInput:
        return shaped(request, pictures, SIDE, step=pipe.vae_scale_factor * 2)

    def picture_arguments(
        self, pipe: Any, request: ImageInput, pictures: Pictures
    ) -> dict[str, Any]:
        seen = [pictures.image, *pictures.more]
        for each in seen:
            if max(each.size) > _STRETCH_MAX * min(each.size):
                size = f"{each.width} x {each.height} pixels"
                told = f"names a picture of {size}: over {_STRETCH_MAX} times as long as wide"
                violation = FieldViolation("input.image_url", told)
                raise InvalidInput(f"input.image_url {told}", violations=(violation,))
        # The first release takes one picture and no list.
        return {"image": seen if pictures.more else pictures.image}


FAMILY = QwenImageEdit()
