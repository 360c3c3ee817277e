"""The pipeline families that this worker can run, imported only when one is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from quickthaw.wire.errors import InvalidArgument

if TYPE_CHECKING:
    from quickthaw.worker.families.base import TextToImage

NOOP = "noop"

_MODULES: Mapping[str, str] = {
    "sd": "quickthaw.worker.families.sd",
    "sdxl": "quickthaw.worker.families.sdxl",
    "flux": "quickthaw.worker.families.flux",
}

NAMES: tuple[str, ...] = (NOOP, *_MODULES)

BATCHING: tuple[str, ...] = tuple(_MODULES)
"""Those whose adapter may draw several requests at once: `TextToImage.batches` of each says so."""


def adapter(name: str) -> TextToImage:
    """The adapter of a family that draws. Imports torch. Raises InvalidArgument if unknown."""
    if (module := _MODULES.get(name)) is None:
        raise InvalidArgument(
            f"this worker does not know the family {name!r}; it runs {', '.join(NAMES)}"
        )
    family: TextToImage = importlib.import_module(module).FAMILY
    return family
