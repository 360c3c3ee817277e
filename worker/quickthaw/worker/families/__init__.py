"""The pipeline families that this worker can run, imported only when one is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from quickthaw.wire.errors import InvalidArgument

if TYPE_CHECKING:
    from quickthaw.worker.families.base import Family, TextToImage

NOOP = "noop"

_PICTURES: Mapping[str, str] = {
    "sd": "quickthaw.worker.families.sd",
    "sdxl": "quickthaw.worker.families.sdxl",
    "flux": "quickthaw.worker.families.flux",
    "sd3": "quickthaw.worker.families.sd3",
}
_VIDEOS: Mapping[str, str] = {
    "svd": "quickthaw.worker.families.svd",
    "wan": "quickthaw.worker.families.wan",
    "ltx": "quickthaw.worker.families.ltx",
}
_SOUNDS: Mapping[str, str] = {"stable_audio": "quickthaw.worker.families.stable_audio"}
_MODULES: Mapping[str, str] = {**_PICTURES, **_VIDEOS, **_SOUNDS}

NAMES: tuple[str, ...] = (NOOP, *_MODULES)

BATCHING: tuple[str, ...] = tuple(_PICTURES)
"""Those whose adapter may draw several requests at once: `TextToImage.batches` of each says so."""


def adapter(name: str) -> Family:
    """The adapter of a family with a model. Imports torch. Raises InvalidArgument if unknown."""
    if (module := _MODULES.get(name)) is None:
        raise InvalidArgument(
            f"this worker does not know the family {name!r}; it runs {', '.join(NAMES)}"
        )
    family: Family = importlib.import_module(module).FAMILY
    return family


def picture_adapter(name: str) -> TextToImage:
    """The adapter of a family that draws pictures. Raises InvalidArgument for any other."""
    from quickthaw.worker.families.base import TextToImage

    family = adapter(name)
    if not isinstance(family, TextToImage):
        raise InvalidArgument(f"the family {name} makes no pictures; {', '.join(_PICTURES)} do")
    return family
