"""The pipeline families that this worker can run: a module of its name each, imported when asked
for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from quickthaw.wire.errors import InvalidArgument

if TYPE_CHECKING:
    from quickthaw.worker.families.base import Family, MakesPictures

NOOP = "noop"

_TOGETHER = ("sd", "sdxl", "sd3", "flux", "flux2", "flux2_klein")
_ALONE = ("chroma", "qwen_image", "z_image")
_FROM_PICTURE = ("sd_inpaint", "sdxl_inpaint", "flux_kontext", "flux_fill", "qwen_image_edit")
_PICTURES = (*_TOGETHER, *_ALONE, *_FROM_PICTURE)
_VIDEOS = ("svd", "wan", "wan_i2v", "ltx", "hunyuan_video", "hunyuan_video_i2v")
_SOUNDS = ("stable_audio",)
_WITH_MODELS = (*_PICTURES, *_VIDEOS, *_SOUNDS)

NAMES: tuple[str, ...] = (NOOP, *_WITH_MODELS)

BATCHING: tuple[str, ...] = _TOGETHER
"""Whose adapters may draw several requests at once: `MakesPictures.batches` of each says so."""


def adapter(name: str) -> Family:
    """The adapter of a family with a model. Imports torch. Raises InvalidArgument if unknown."""
    if name not in _WITH_MODELS:
        raise InvalidArgument(
            f"this worker does not know the family {name!r}; it runs {', '.join(NAMES)}"
        )
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def picture_adapter(name: str) -> MakesPictures:
    """The adapter of a family that draws pictures. Raises InvalidArgument for any other."""
    from quickthaw.worker.families.base import MakesPictures

    family = adapter(name)
    if not isinstance(family, MakesPictures):
        raise InvalidArgument(f"the family {name} makes no pictures; {', '.join(_PICTURES)} do")
    return family
