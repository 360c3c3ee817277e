"""A request's own LoRAs as a part of its load."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from quickthaw.worker.attempts import Assignment, LoadSummary
from quickthaw.worker.inputs import ImageInput

if TYPE_CHECKING:
    from quickthaw.worker.models import ModelHost

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

NAMES_LORAS: Final = '"loras"'
"""In an input's JSON, if it names some: a look that is cheap enough for every request."""


def with_adapters(host: ModelHost, assignment: Assignment, summary: LoadSummary) -> LoadSummary:
    """What loading came to, the attempt's LoRAs included, which are ready then.

    Raises InvalidInput, naming the item, and ResourceExhausted, and then lets go of the model.
    """
    # Imported here because the event loop's thread must not wait for torch.
    from quickthaw.worker.bringing import out_of_memory

    began = time.monotonic()
    try:
        loaded, reader = host.model_of(assignment)
        request = reader.read(assignment.input_json)
        if not isinstance(request, ImageInput) or not request.loras:
            return summary
        bring = partial(host.adapters.bring, assignment.attempt_id, loaded, request.loras)
        if (told := _unless_full(bring)) is None:
            # Only here is gone what the error's traceback held.
            host.free_idle()
            told = _unless_full(bring)
        if told is None:
            raise out_of_memory(f"loading LoRAs for {assignment.model}")
    except BaseException:
        host.release(assignment.attempt_id)
        raise
    return replace(
        summary,
        components=(*summary.components, *told),
        total_seconds=summary.total_seconds + time.monotonic() - began,
    )


def _unless_full(bring: Callable[[], _T]) -> _T | None:
    """None if there is no memory for them on the device."""
    # Imported here because the event loop's thread must not wait for torch.
    import torch

    try:
        return bring()
    except torch.OutOfMemoryError as error:
        logger.warning("no memory for LoRAs (%s)", error)
        return None
