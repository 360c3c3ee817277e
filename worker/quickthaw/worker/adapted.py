"""A request's own LoRAs as a part of its load."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quickthaw.worker.attempts import Assignment, LoadSummary
from quickthaw.worker.inputs import ImageInput

if TYPE_CHECKING:
    from quickthaw.worker.models import ModelHost

NAMES_LORAS: Final = '"loras"'
"""In an input's JSON, if it names some: a look that is cheap enough for every request."""


def with_adapters(host: ModelHost, assignment: Assignment, summary: LoadSummary) -> LoadSummary:
    """What loading came to, the attempt's LoRAs included, which are ready then.

    Raises InvalidInput, naming the item, and then lets go of the model.
    """
    began = time.monotonic()
    try:
        loaded, reader = host.model_of(assignment)
        request = reader.read(assignment.input_json)
        if not isinstance(request, ImageInput) or not request.loras:
            return summary
        told = host.adapters.bring(assignment.attempt_id, loaded, request.loras)
    except BaseException:
        host.release(assignment.attempt_id)
        raise
    return replace(
        summary,
        components=(*summary.components, *told),
        total_seconds=summary.total_seconds + time.monotonic() - began,
    )
