"""Workers as operators see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quickthaw.scheduler.catalog import CatalogModel
from quickthaw.scheduler.convert.words import (
    STATE_TO_WIRE,
    WORKER_STATE_TO_WIRE,
    tier_to_wire,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptRecord, Tier
from quickthaw.scheduler.core.worker import Worker
from quickthaw.v1 import fleet_pb2


def worker_message(
    worker: Worker,
    attempts: Sequence[tuple[AttemptRecord, RequestState]],
    models: Iterable[CatalogModel],
) -> fleet_pb2.Worker:
    """`attempts`: those it holds. `models`: the catalog, to say which are ready to run there."""
    spec = worker.spec
    in_vram = worker.resident[Tier.VRAM]
    return fleet_pb2.Worker(
        worker_id=spec.worker_id,
        gpu_type=spec.gpu_type,
        state=WORKER_STATE_TO_WIRE[worker.state],
        vram_bytes=spec.vram_bytes,
        vram_used_bytes=sum(in_vram.values()),
        pinned_bytes=spec.pinned_bytes,
        pinned_used_bytes=sum(worker.resident[Tier.PINNED].values()),
        residency=[
            fleet_pb2.Residency(digest=digest, tier=tier_to_wire(tier), size_bytes=size_bytes)
            for tier, digests in worker.resident.items()
            for digest, size_bytes in digests.items()
        ],
        attempts=[
            fleet_pb2.AttemptStatus(
                attempt_id=attempt.attempt_id,
                request_id=attempt.request_id,
                state=STATE_TO_WIRE[state],
                metered_ms=attempt.metered_ms,
            )
            for attempt, state in attempts
        ],
        labels=dict(spec.labels),
        attached_unix_ms=worker.attached_ms,
        last_heartbeat_unix_ms=worker.last_heard_ms,
        rate_nanodollars_per_second=worker.kind.rate_nanodollars_per_second,
        version=spec.version,
        dedicated_to=worker.dedicated_to or "",
        recent_deaths=worker.deaths,
        backing_off_until_unix_ms=worker.backing_off_until_ms,
        resident_models=sorted(
            model.spec.id
            for model in models
            if all(part.digest in in_vram for part in model.spec.components)
        ),
    )
