"""A worker's stream: its messages as the core's events, the core's commands as messages for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from quickthaw.scheduler.convert.words import (
    STATE_FROM_WIRE,
    checked_text,
    invalid,
    tier_from_wire,
    tier_to_wire,
)
from quickthaw.scheduler.core import commands, events
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    NO_OUTPUTS,
    AttemptId,
    Digest,
    Failure,
    Outcome,
    OutputUnits,
    RequestId,
    Residency,
    Tier,
    TierSpeed,
    WorkerId,
    WorkerSpec,
)
from quickthaw.v1 import fleet_pb2, types_pb2
from quickthaw.wire import limits

ID_CHARS_MAX = 200
GPU_TYPE_CHARS_MAX = 64
LABELS_MAX = 64
CONCURRENCY_MAX = 1_000
BATCH_MAX = 64
DIGEST_CHARS = 64
ATTEMPT_ID_CHARS_MAX = 80
SPAN_MS_MAX = 366 * 86_400_000
SIDE_MAX = 65_536
"""Pixels. What is counted and multiplied by prices has to fit the 64 bits of a bill."""

ToWorker: TypeAlias = (
    commands.SendCancel
    | commands.SendDrain
    | commands.SendUnload
    | commands.SendPrefetch
    | commands.SendWelcome
    | commands.SendHeartbeatAck
)

_OUTCOMES = {
    types_pb2.REQUEST_STATE_SUCCEEDED: Outcome.SUCCEEDED,
    types_pb2.REQUEST_STATE_FAILED: Outcome.FAILED,
    types_pb2.REQUEST_STATE_CANCELLED: Outcome.CANCELLED,
}

Heard: TypeAlias = events.Event | fleet_pb2.AttemptEvent
"""What one message means: facts for the core, or something for those who watch."""


def hello(message: fleet_pb2.Hello) -> Iterator[events.Event]:
    """Raises InvalidArgument: the worker is misconfigured or not ours."""
    worker_id = WorkerId(
        checked_text("hello.worker_id", message.worker_id, chars_max=ID_CHARS_MAX, required=True)
    )
    if not 1 <= message.concurrency <= CONCURRENCY_MAX:
        raise invalid("hello.concurrency", f"must be 1 to {CONCURRENCY_MAX}")
    if message.vram_bytes < 0 or message.pinned_bytes < 0:
        raise invalid("hello.vram_bytes", "must not be negative")
    if len(message.labels) > LABELS_MAX:
        raise invalid("hello.labels", f"must be at most {LABELS_MAX}")
    if not 0 <= message.batch_max <= BATCH_MAX:
        raise invalid("hello.batch_max", f"must be 0 to {BATCH_MAX}")
    if len(message.batch_families) > LABELS_MAX:
        raise invalid("hello.batch_families", f"must be at most {LABELS_MAX}")
    spec = WorkerSpec(
        worker_id=worker_id,
        incarnation=checked_text(
            "hello.incarnation", message.incarnation, chars_max=64, required=True
        ),
        gpu_type=checked_text(
            "hello.gpu_type", message.gpu_type, chars_max=GPU_TYPE_CHARS_MAX, required=True
        ),
        vram_bytes=message.vram_bytes,
        pinned_bytes=message.pinned_bytes,
        concurrency=message.concurrency,
        labels=dict(message.labels),
        version=checked_text("hello.version", message.version, chars_max=64),
        tier_speeds=_tier_speeds(message.tier_speeds),
        peer_url=_peer_url(message.peer_url),
        peer_token=checked_text("hello.peer_token", message.peer_token, chars_max=256),
        batch_max=max(1, message.batch_max),
        batch_families=frozenset(message.batch_families),
    )
    yield events.WorkerHello(spec, _residencies(message.residency), _reports(message.attempts))
    if message.draining:
        yield events.DrainRequested(worker_id)


def heard(worker_id: WorkerId, message: fleet_pb2.WorkerMessage) -> Iterator[Heard]:
    """Everything but Hello. A kind that a newer worker knows is passed over.

    Raises InvalidArgument for what no version of a worker may say.
    """
    match message.WhichOneof("kind"):
        case "hello":
            raise invalid("hello", "was said already on this stream")
        case "heartbeat":
            beat = message.heartbeat
            if beat.draining:
                yield events.DrainRequested(worker_id)
            yield events.WorkerHeartbeat(worker_id, beat.sequence, _reports(beat.attempts))
        case "residency":
            yield events.ResidencyChanged(
                worker_id,
                _residencies(message.residency.added),
                _residencies(message.residency.removed),
            )
        case "loading":
            yield events.AttemptLoading(worker_id, _attempt_id(message.loading.attempt_id))
        case "running":
            running = message.running
            yield events.AttemptRunning(
                worker_id,
                _attempt_id(running.attempt_id),
                _span_ms(running.load_ms),
                tier_from_wire(running.start_tier),
            )
        case "event":
            yield _checked_event(message.event)
        case "finished":
            yield finished(worker_id, message.finished)
        case "goodbye":
            yield events.WorkerGoodbye(worker_id)
        case None:
            pass


def finished(worker_id: WorkerId, message: fleet_pb2.AttemptFinished) -> events.AttemptFinished:
    """Raises InvalidArgument."""
    outcome = _OUTCOMES.get(message.outcome)
    if outcome is None:
        raise invalid("finished.outcome", "must be SUCCEEDED, FAILED or CANCELLED")
    failure: Failure | None = None
    if message.HasField("failure"):
        said = message.failure
        failure = Failure(said.reason or "INTERNAL", said.message, said.retryable)
    return events.AttemptFinished(
        worker_id=worker_id,
        attempt_id=_attempt_id(message.attempt_id),
        request_id=RequestId(message.request_id),
        outcome=outcome,
        metered_ms=_span_ms(message.metered_ms),
        load_ms=_span_ms(message.load_ms),
        start_tier=tier_from_wire(message.start_tier),
        failure=failure,
        payload=message,
        outputs=_outputs(message.artifacts) if message.artifacts else NO_OUTPUTS,
    )


def _outputs(artifacts: Iterable[types_pb2.Artifact]) -> OutputUnits:
    """Of what was stored; a file that is neither an image nor a video is not sold by units."""
    images = pixels = video_ms = 0
    for each in artifacts:
        if each.content_type.startswith("image/"):
            images += 1
            pixels += _side(each.width) * _side(each.height)
        elif each.content_type.startswith("video/"):
            video_ms += _span_ms(each.duration_ms)
    return OutputUnits(images, pixels, video_ms)


def _span_ms(told_ms: int) -> int:
    return told_ms if 0 <= told_ms <= SPAN_MS_MAX else SPAN_MS_MAX if told_ms > 0 else 0


def _side(told: int) -> int:
    return told if 0 <= told <= SIDE_MAX else SIDE_MAX if told > 0 else 0


def _checked_event(message: fleet_pb2.AttemptEvent) -> fleet_pb2.AttemptEvent:
    _attempt_id(message.attempt_id)
    if len(message.preview.data) > limits.PREVIEW_BYTES_MAX:
        raise invalid("event.preview.data", f"must be at most {limits.PREVIEW_BYTES_MAX} bytes")
    return message


def _attempt_id(text: str) -> AttemptId:
    return AttemptId(
        checked_text("attempt_id", text, chars_max=ATTEMPT_ID_CHARS_MAX, required=True)
    )


def _residencies(messages: Iterable[fleet_pb2.Residency]) -> tuple[Residency, ...]:
    """What lies in a tier that this release does not know is passed over."""
    return tuple(
        Residency(Digest(each.digest), tier, max(0, each.size_bytes))
        for each in messages
        if len(each.digest) <= DIGEST_CHARS and (tier := tier_from_wire(each.tier)) is not None
    )


def _reports(messages: Iterable[fleet_pb2.AttemptStatus]) -> tuple[events.AttemptReport, ...]:
    return tuple(
        events.AttemptReport(
            _attempt_id(each.attempt_id),
            RequestId(each.request_id),
            STATE_FROM_WIRE.get(each.state, RequestState.PLACED),
            _span_ms(each.metered_ms),
        )
        for each in messages
    )


def _peer_url(text: str) -> str:
    """Others will connect there, so nothing but a web address is passed on."""
    url = checked_text("hello.peer_url", text, chars_max=512)
    if url and not url.startswith(("http://", "https://")):
        raise invalid("hello.peer_url", "must be an http:// or https:// URL")
    return url


def _tier_speeds(messages: Iterable[fleet_pb2.TierSpeed]) -> dict[Tier, TierSpeed]:
    return {
        tier: TierSpeed(each.bytes_per_second, max(0.0, each.latency_seconds))
        for each in messages
        if each.bytes_per_second > 0 and (tier := tier_from_wire(each.tier)) is not None
    }


def fill_assign(
    command: commands.SendAssign,
    input_json: str,
    contents_bytes_max: int,
    message: fleet_pb2.SchedulerMessage,
) -> None:
    """Into an empty message. `contents_bytes_max`: how much of its outputs somebody waits for."""
    job = command.job
    assign, model = message.assign, job.model
    assign.attempt_id = command.attempt_id
    assign.request_id = job.request_id
    assign.model = model.id
    assign.family = model.family
    assign.snapshot_digest = model.snapshot_digest
    assign.snapshot_uri = model.snapshot_uri
    assign.input_json = input_json
    assign.attempt = command.number
    assign.deadline_unix_ms = job.deadline_ms
    assign.meter_lease_ms = command.meter_lease_ms
    assign.contents_bytes_max = contents_bytes_max
    if command.evict_digests:
        assign.evict_digests.extend(command.evict_digests)
    if command.whereabouts:
        assign.whereabouts.extend(_whereabouts(command.whereabouts))


def scheduler_message(command: ToWorker) -> fleet_pb2.SchedulerMessage:
    match command:
        case commands.SendCancel():
            cancel = fleet_pb2.CancelAttempt(attempt_id=command.attempt_id, reason=command.reason)
            return fleet_pb2.SchedulerMessage(cancel=cancel)
        case commands.SendDrain():
            return fleet_pb2.SchedulerMessage(drain=fleet_pb2.DrainWorker(stop=command.stop))
        case commands.SendUnload():
            unload = fleet_pb2.Unload(digests=command.digests, tier=tier_to_wire(command.tier))
            return fleet_pb2.SchedulerMessage(unload=unload)
        case commands.SendPrefetch(model=model):
            prefetch = fleet_pb2.Prefetch(
                model=model.id,
                family=model.family,
                snapshot_digest=model.snapshot_digest,
                snapshot_uri=model.snapshot_uri,
                digests=command.digests,
                tier=tier_to_wire(command.tier),
                whereabouts=_whereabouts(command.whereabouts),
            )
            return fleet_pb2.SchedulerMessage(prefetch=prefetch)
        case commands.SendWelcome():
            welcome = fleet_pb2.Welcome(
                heartbeat_interval_ms=command.heartbeat_interval_ms,
                lease_ms=command.lease_ms,
                revoked_attempt_ids=command.revoked_attempt_ids,
            )
            return fleet_pb2.SchedulerMessage(welcome=welcome)
        case commands.SendHeartbeatAck():
            ack = fleet_pb2.HeartbeatAck(
                sequence=command.sequence,
                revoked_attempt_ids=command.revoked_attempt_ids,
                meter_leases=[
                    fleet_pb2.MeterLease(attempt_id=attempt_id, until_metered_ms=paid_ms)
                    for attempt_id, paid_ms in command.meter_leases
                ],
            )
            return fleet_pb2.SchedulerMessage(heartbeat_ack=ack)


def _whereabouts(found: Iterable[commands.Peers]) -> list[fleet_pb2.Whereabouts]:
    return [
        fleet_pb2.Whereabouts(
            digest=each.digest,
            peers=[fleet_pb2.Peer(url=url, token=token) for url, token in each.places],
        )
        for each in found
    ]
