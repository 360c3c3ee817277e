"""One run for several attempts of one model, in the thread that runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from quickthaw.wire.errors import EngineFailed, QuickthawError
from quickthaw.worker.attempts import Assignment, RunResult, Stopped
from quickthaw.worker.families import BATCHING, picture_adapter
from quickthaw.worker.faults import ending_at_faults
from quickthaw.worker.inputs import ImageInput, InputReader
from quickthaw.worker.ports import BatchEnd, BatchMember, RunStopped

if TYPE_CHECKING:
    from quickthaw.snapshot import LoadedModel
    from quickthaw.worker.models import ModelHost

logger = logging.getLogger(__name__)


def batch_key_of(host: ModelHost, assignment: Assignment) -> str:
    """What a loaded attempt has to have in common with others to run with them; empty for an input
    that is wrong, a family that runs each alone, and a LoRA, whose base is shared."""
    from quickthaw.worker.batching import batch_key

    loaded, reader = host.model_of(assignment)
    family = loaded.manifest.family
    if loaded.manifest.adapters or family not in BATCHING or not picture_adapter(family).batches:
        return ""
    try:
        return batch_key(_picture_input(reader, assignment))
    except QuickthawError:
        return ""  # it fails alone, and says why


def _picture_input(reader: InputReader, assignment: Assignment) -> ImageInput:
    request = reader.read(assignment.input_json)
    assert isinstance(request, ImageInput), "families of other media give no batch key"
    return request


def run_batch(
    host: ModelHost, members: Sequence[BatchMember], on_fault: Callable[[BaseException], None]
) -> list[BatchEnd]:
    """The end of each member, in their order. The attempts let go of their model."""
    try:
        loaded, reader = host.model_of(members[0].assignment)
        requests = [_picture_input(reader, member.assignment) for member in members]
        ends: list[BatchEnd] = []
        size = min(len(members), host.runs_that_fit(loaded.manifest))
        with ending_at_faults(on_fault):
            for first in range(0, len(members), size):
                part = slice(first, first + size)
                ends += _run_together(host, loaded, members[part], requests[part])
        return ends
    finally:
        for member in members:
            host.release(member.assignment.attempt_id)


def _run_together(
    host: ModelHost,
    loaded: LoadedModel,
    members: Sequence[BatchMember],
    requests: Sequence[ImageInput],
) -> list[BatchEnd]:
    # Imported here because the event loop's thread must not wait for torch.
    import torch

    from quickthaw.worker.batching import Member, draw_batch
    from quickthaw.worker.bringing import out_of_memory

    model = members[0].assignment.model
    drawn = [
        Member(request, member.sink, member.stop, member.on_stopped)
        for request, member in zip(requests, members, strict=True)
    ]
    family = picture_adapter(loaded.manifest.family)
    try:
        with host.running(loaded.manifest), host.compiled(loaded) as usage:
            found = draw_batch(loaded.pipeline, family, drawn, loaded.manifest.preview)
    except RunStopped:
        return [Stopped() for _ in members]
    except torch.OutOfMemoryError:
        if len(members) == 1:
            return [out_of_memory(f"running {model}")]
        logger.warning("no memory left to run %d of %s at once; one by one", len(members), model)
    except Exception as error:
        logger.exception("a batch of %d failed", len(members))
        failed = EngineFailed(f"{model} failed: {type(error).__name__}: {error}")
        return [failed for _ in members]
    else:
        return [_ended(end, str(usage)) for end in found]
    # Only here are the failed run's tensors gone, which its traceback held.
    host.free_idle()
    alone: list[BatchEnd] = []
    for member, request in zip(members, requests, strict=True):
        alone += _run_together(host, loaded, [member], [request])
    return alone


def _ended(end: RunResult | QuickthawError | None, compiled: str) -> BatchEnd:
    if end is None:
        return Stopped()
    return replace(end, compiled=compiled) if isinstance(end, RunResult) else end
