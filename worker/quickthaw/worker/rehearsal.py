"""Encoding an attempt's prompt while the model's denoiser is still on its way."""

from __future__ import annotations

import logging
import time

from quickthaw.snapshot import Kind, LoadedModel
from quickthaw.worker.ahead import Answers
from quickthaw.worker.attempts import Assignment
from quickthaw.worker.families import adapter
from quickthaw.worker.inputs import InputReader
from quickthaw.worker.making import encode_ahead

logger = logging.getLogger(__name__)


def encode(loaded: LoadedModel, reader: InputReader, assignment: Assignment) -> Answers | None:
    """Encodes an attempt's prompt; None if that fails, for the run will meet the same and say it,
    and where another pipeline asks, with a picture that is not there yet.

    Waits for what encodes and for nothing else. Nothing else may be running on the model.
    """
    try:
        request = reader.read(assignment.input_json)
        # Here, not while encoding: meanwhile other models' runs, metered, could not encode.
        loaded.wait_for(Kind.TEXT_ENCODER)
        began = time.monotonic()
        answers = encode_ahead(loaded.pipeline, adapter(loaded.manifest.family), request)
        if answers is not None:
            answers.seconds = time.monotonic() - began
        return answers
    except Exception as error:
        logger.info("nothing encoded ahead for %s: %s", assignment.attempt_id, error)
        return None
