"""The only module that sees both the wire's messages and the worker's own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quickthaw.v1 import fleet_pb2, inference_pb2, types_pb2
from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    Outcome,
    Peer,
    Phase,
    Status,
    StoredArtifact,
    Tier,
)
from quickthaw.worker.commands import TellFinished, TellRunning
from quickthaw.worker.prefetching import Prefetch
from quickthaw.worker.residency import Resident, TierSpeed

LOG_CHARS_MAX = 1024

_PHASE: Mapping[Phase, types_pb2.RequestState.ValueType] = {
    Phase.ASSIGNED: types_pb2.REQUEST_STATE_PLACED,
    Phase.LOADING: types_pb2.REQUEST_STATE_LOADING,
    Phase.READY: types_pb2.REQUEST_STATE_LOADING,
    Phase.RUNNING: types_pb2.REQUEST_STATE_RUNNING,
    Phase.STORING: types_pb2.REQUEST_STATE_RUNNING,
}
_OUTCOME: Mapping[Outcome, types_pb2.RequestState.ValueType] = {
    Outcome.SUCCEEDED: types_pb2.REQUEST_STATE_SUCCEEDED,
    Outcome.FAILED: types_pb2.REQUEST_STATE_FAILED,
    Outcome.CANCELLED: types_pb2.REQUEST_STATE_CANCELLED,
}
_TIER: Mapping[Tier, types_pb2.Tier.ValueType] = {
    Tier.VRAM: types_pb2.TIER_VRAM,
    Tier.PINNED: types_pb2.TIER_PINNED,
    Tier.DISK: types_pb2.TIER_DISK,
    Tier.REMOTE: types_pb2.TIER_REMOTE,
}


def assignment_from(assign: fleet_pb2.Assign) -> Assignment:
    return Assignment(
        attempt_id=assign.attempt_id,
        request_id=assign.request_id,
        model=assign.model,
        family=assign.family,
        snapshot_digest=assign.snapshot_digest,
        snapshot_uri=assign.snapshot_uri,
        input_json=assign.input_json,
        attempt=assign.attempt,
        evict_digests=tuple(assign.evict_digests),
        deadline_unix_ms=assign.deadline_unix_ms,
        whereabouts=_whereabouts(assign.whereabouts),
        meter_lease_ms=assign.meter_lease_ms,
        contents_bytes_max=assign.contents_bytes_max,
    )


def _whereabouts(
    messages: Iterable[fleet_pb2.Whereabouts],
) -> tuple[tuple[str, tuple[Peer, ...]], ...]:
    return tuple(
        (each.digest, tuple(Peer(peer.url, peer.token) for peer in each.peers)) for each in messages
    )


def prefetch_from(message: fleet_pb2.Prefetch) -> Prefetch | None:
    """None for a tier that nothing is brought to ahead of need."""
    if message.tier not in (types_pb2.TIER_VRAM, types_pb2.TIER_PINNED):
        return None
    like = Assignment(
        attempt_id="",
        request_id="",
        model=message.model,
        family=message.family,
        snapshot_digest=message.snapshot_digest,
        snapshot_uri=message.snapshot_uri,
        input_json="",
        attempt=0,
        evict_digests=(),
        deadline_unix_ms=0,
        whereabouts=_whereabouts(message.whereabouts),
    )
    return Prefetch(like, tuple(message.digests), tier_from(message.tier))


def tier_from(tier: types_pb2.Tier.ValueType) -> Tier:
    """Raises ValueError for a tier that this release does not know."""
    return Tier(tier)


def status(line: Status) -> fleet_pb2.AttemptStatus:
    return fleet_pb2.AttemptStatus(
        attempt_id=line.attempt_id,
        request_id=line.request_id,
        state=_OUTCOME[line.outcome] if line.outcome else _PHASE[line.phase],
        metered_ms=line.metered_ms,
    )


def resident(line: Resident) -> fleet_pb2.Residency:
    return fleet_pb2.Residency(
        digest=line.digest, tier=_TIER[line.tier], size_bytes=line.size_bytes
    )


def tier_speed(line: TierSpeed) -> fleet_pb2.TierSpeed:
    return fleet_pb2.TierSpeed(
        tier=_TIER[line.tier],
        bytes_per_second=line.bytes_per_second,
        latency_seconds=line.latency_seconds,
    )


def heartbeat(
    sequence: int, attempts: Iterable[Status], *, draining: bool
) -> fleet_pb2.WorkerMessage:
    return fleet_pb2.WorkerMessage(
        heartbeat=fleet_pb2.Heartbeat(
            sequence=sequence, attempts=map(status, attempts), draining=draining
        )
    )


def residency_delta(
    added: Iterable[Resident], removed: Iterable[Resident]
) -> fleet_pb2.WorkerMessage:
    return fleet_pb2.WorkerMessage(
        residency=fleet_pb2.ResidencyDelta(
            added=map(resident, added), removed=map(resident, removed)
        )
    )


def loading(attempt_id: str) -> fleet_pb2.WorkerMessage:
    return fleet_pb2.WorkerMessage(loading=fleet_pb2.AttemptLoading(attempt_id=attempt_id))


def running(tell: TellRunning) -> fleet_pb2.WorkerMessage:
    return fleet_pb2.WorkerMessage(
        running=fleet_pb2.AttemptRunning(
            attempt_id=tell.attempt_id,
            load=load_report(tell.load, 0.0),
            start_tier=_TIER[tell.load.start_tier],
            load_ms=tell.load_ms,
        )
    )


def fill_finished(worker_message: fleet_pb2.WorkerMessage, end: TellFinished) -> None:
    """Into an empty message, field by field: copied into its frame it would cost twice as much."""
    message = worker_message.finished
    message.attempt_id = end.attempt_id
    message.request_id = end.request_id
    message.outcome = _OUTCOME[end.outcome]
    message.metered_ms = end.metered_ms
    message.load_ms = end.load_ms
    message.output_json = end.output_json
    if end.artifacts:
        message.artifacts.extend(map(artifact, end.artifacts))
    if end.contents:
        message.contents.extend(end.contents)
    if end.failure is not None:
        message.failure.CopyFrom(failure(end.failure))
    if end.load is not None:
        message.load.CopyFrom(load_report(end.load, end.first_step_seconds, end.compiled))
        message.start_tier = _TIER[end.load.start_tier]
    if end.seed is not None:
        message.seed = end.seed


def failure(failed: Failure) -> types_pb2.Failure:
    return types_pb2.Failure(
        reason=failed.reason,
        message=failed.message,
        retryable=failed.retryable,
        violations=[
            types_pb2.FieldViolation(field=line.field, description=line.description)
            for line in failed.violations
        ],
    )


def artifact(stored: StoredArtifact) -> types_pb2.Artifact:
    return types_pb2.Artifact(
        uri=stored.uri,
        name=stored.name,
        content_type=stored.content_type,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        width=stored.width,
        height=stored.height,
        duration_ms=stored.duration_ms,
    )


def load_report(
    summary: LoadSummary, first_step_seconds: float, compiled: str = ""
) -> types_pb2.LoadReport:
    return types_pb2.LoadReport(
        components=[
            types_pb2.ComponentLoad(
                name=part.name,
                digest=part.digest,
                size_bytes=part.size_bytes,
                source=_TIER[part.source],
                copier=part.copier,
                read_seconds=part.read_seconds,
                copy_seconds=part.copy_seconds,
                why=part.why,
            )
            for part in summary.components
        ],
        manifest_seconds=summary.manifest_seconds,
        skeleton_seconds=summary.skeleton_seconds,
        bytes_seconds=summary.bytes_seconds,
        bind_seconds=summary.bind_seconds,
        total_seconds=summary.total_seconds,
        first_step_seconds=first_step_seconds,
        compiled=compiled,
        encode_seconds=summary.encode_seconds,
    )


def progress(attempt_id: str, step: int, steps: int) -> fleet_pb2.WorkerMessage:
    return fleet_pb2.WorkerMessage(
        event=fleet_pb2.AttemptEvent(
            attempt_id=attempt_id, progress=inference_pb2.Progress(step=step, steps=steps)
        )
    )


def preview(
    attempt_id: str,
    step: int,
    image_index: int,
    content_type: str,
    data: bytes,
    size: tuple[int, int],
) -> fleet_pb2.WorkerMessage:
    return fleet_pb2.WorkerMessage(
        event=fleet_pb2.AttemptEvent(
            attempt_id=attempt_id,
            preview=inference_pb2.Preview(
                step=step,
                image_index=image_index,
                content_type=content_type,
                data=data,
                width=size[0],
                height=size[1],
            ),
        )
    )


def log_line(attempt_id: str, level: str, text: str) -> fleet_pb2.WorkerMessage:
    return fleet_pb2.WorkerMessage(
        event=fleet_pb2.AttemptEvent(
            attempt_id=attempt_id,
            log=inference_pb2.LogLine(level=level, text=text[:LOG_CHARS_MAX]),
        )
    )
