"""Endpoints: how models are served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quickthaw.scheduler.convert.words import checked_text, invalid
from quickthaw.scheduler.core.model import (
    EndpointSettings,
    Visibility,
)
from quickthaw.scheduler.core.sanctions import Quarantine
from quickthaw.v1 import catalog_pb2

LABELS_MAX = 64
VISIBILITY_TO_WIRE: Mapping[Visibility, catalog_pb2.Visibility.ValueType] = {
    Visibility.SHARED: catalog_pb2.VISIBILITY_SHARED,
    Visibility.PRIVATE: catalog_pb2.VISIBILITY_PRIVATE,
    Visibility.DEDICATED: catalog_pb2.VISIBILITY_DEDICATED,
}
_FROM_WIRE: Mapping[int, Visibility] = {
    int(catalog_pb2.VISIBILITY_UNSPECIFIED): Visibility.SHARED,
    **{int(wire): ours for ours, wire in VISIBILITY_TO_WIRE.items()},
}


def endpoint_settings(message: catalog_pb2.Endpoint) -> EndpointSettings:
    """Unchecked but for texts; `endpoints.check_endpoint` looks at the rest. Raises
    InvalidArgument."""
    visibility = _FROM_WIRE.get(message.visibility)
    if visibility is None:
        raise invalid("endpoint.visibility", "must be SHARED, PRIVATE or DEDICATED")
    if len(message.worker_labels) > LABELS_MAX:
        raise invalid("endpoint.worker_labels", f"must be at most {LABELS_MAX}")
    return EndpointSettings(
        visibility=visibility,
        owner_tenant=checked_text("endpoint.owner_tenant", message.owner_tenant, chars_max=64),
        min_replicas=message.min_replicas,
        max_replicas=message.max_replicas,
        buffer=message.buffer,
        scale_up_delay_ms=message.scale_up_delay_ms,
        scale_down_delay_ms=message.scale_down_delay_ms,
        keep_alive_ms=message.keep_alive_ms,
        concurrency_max=message.concurrency_max,
        reserved_workers=message.reserved_workers,
        worker_labels=dict(message.worker_labels),
    )


def endpoint_message(
    model_id: str,
    settings: EndpointSettings,
    *,
    replicas: int = 0,
    quarantine: Quarantine | None = None,
    reserved: Iterable[str] = (),
) -> catalog_pb2.Endpoint:
    message = catalog_pb2.Endpoint(
        model=model_id,
        visibility=VISIBILITY_TO_WIRE[settings.visibility],
        owner_tenant=settings.owner_tenant,
        min_replicas=settings.min_replicas,
        max_replicas=settings.max_replicas,
        buffer=settings.buffer,
        scale_up_delay_ms=settings.scale_up_delay_ms,
        scale_down_delay_ms=settings.scale_down_delay_ms,
        keep_alive_ms=settings.keep_alive_ms,
        concurrency_max=settings.concurrency_max,
        reserved_workers=settings.reserved_workers,
        worker_labels=dict(settings.worker_labels),
        replicas=replicas,
        reserved_worker_ids=sorted(reserved),
    )
    if quarantine is not None:
        message.quarantine.CopyFrom(
            catalog_pb2.Quarantine(
                reason=quarantine.reason,
                since_unix_ms=quarantine.since_ms,
                snapshot_digest=quarantine.snapshot_digest,
            )
        )
    return message
