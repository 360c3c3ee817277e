"""Between the wire's messages and the client's values: models, workers, money and keys."""

from __future__ import annotations

from collections.abc import Iterable

from quickthaw.client.billing import (
    LedgerLine,
    ModelPrice,
    Price,
    PriceTable,
    Usage,
    UsageLine,
)
from quickthaw.client.catalog import (
    Component,
    Model,
    ModelEndpoint,
    Quarantine,
    Registered,
    Visibility,
)
from quickthaw.client.convert import (
    enum_from_wire,
    json_from_wire,
    json_to_wire,
    state_from_wire,
    tier_from_wire,
)
from quickthaw.client.fleet import (
    AttemptStatus,
    Candidate,
    Decision,
    Explanation,
    Refusal,
    Residency,
    Worker,
    WorkerState,
)
from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2


def model_from_wire(message: catalog_pb2.Model) -> Model:
    return Model(
        id=message.id,
        family=message.family,
        snapshot_digest=message.snapshot_digest,
        snapshot_uri=message.snapshot_uri,
        components=tuple(Component(c.name, c.digest, c.size_bytes) for c in message.components),
        working_bytes=message.working_bytes,
        input_schema=json_from_wire(message.input_schema_json),
        aliases=tuple(message.aliases),
        description=message.description,
        license=message.license,
        registered_unix_ms=message.registered_unix_ms,
    )


def model_to_wire(model: Model) -> catalog_pb2.Model:
    return catalog_pb2.Model(
        id=model.id,
        aliases=model.aliases,
        family=model.family,
        snapshot_digest=model.snapshot_digest,
        snapshot_uri=model.snapshot_uri,
        components=[
            catalog_pb2.Component(name=c.name, digest=c.digest, size_bytes=c.size_bytes)
            for c in model.components
        ],
        working_bytes=model.working_bytes,
        input_schema_json=json_to_wire(model.input_schema),
        description=model.description,
        license=model.license,
    )


def registered_from_wire(message: catalog_pb2.RegisterResponse) -> Registered:
    return Registered(model_from_wire(message.model), message.changed)


_SETTINGS = (
    "min_replicas",
    "max_replicas",
    "buffer",
    "scale_up_delay_ms",
    "scale_down_delay_ms",
    "keep_alive_ms",
    "concurrency_max",
    "reserved_workers",
)


def endpoint_to_wire(endpoint: ModelEndpoint) -> catalog_pb2.Endpoint:
    """Its settings; what the server sets is left out."""
    message = catalog_pb2.Endpoint(
        visibility=catalog_pb2.Visibility.Value(f"VISIBILITY_{endpoint.visibility.name}"),
        owner_tenant=endpoint.owner_tenant,
        worker_labels=endpoint.worker_labels,
    )
    for name in _SETTINGS:
        setattr(message, name, getattr(endpoint, name))
    return message


def endpoint_from_wire(message: catalog_pb2.Endpoint) -> ModelEndpoint:
    said = message.quarantine
    return ModelEndpoint(
        model=message.model,
        visibility=enum_from_wire(
            Visibility, catalog_pb2.Visibility.Name, "VISIBILITY_", message.visibility
        ),
        owner_tenant=message.owner_tenant,
        worker_labels=dict(message.worker_labels),
        replicas=message.replicas,
        quarantine=(
            Quarantine(said.reason, said.since_unix_ms, said.snapshot_digest)
            if message.HasField("quarantine")
            else None
        ),
        reserved_worker_ids=tuple(message.reserved_worker_ids),
        **{name: getattr(message, name) for name in _SETTINGS},
    )


def worker_from_wire(message: fleet_pb2.Worker) -> Worker:
    return Worker(
        worker_id=message.worker_id,
        gpu_type=message.gpu_type,
        state=enum_from_wire(
            WorkerState, fleet_pb2.WorkerState.Name, "WORKER_STATE_", message.state
        ),
        vram_bytes=message.vram_bytes,
        vram_used_bytes=message.vram_used_bytes,
        pinned_bytes=message.pinned_bytes,
        pinned_used_bytes=message.pinned_used_bytes,
        residency=tuple(
            Residency(r.digest, tier_from_wire(r.tier), r.size_bytes) for r in message.residency
        ),
        attempts=tuple(
            AttemptStatus(a.attempt_id, a.request_id, state_from_wire(a.state), a.metered_ms)
            for a in message.attempts
        ),
        labels=dict(message.labels),
        attached_unix_ms=message.attached_unix_ms,
        last_heartbeat_unix_ms=message.last_heartbeat_unix_ms,
        rate_nanodollars_per_second=message.rate_nanodollars_per_second,
        version=message.version,
        resident_models=tuple(message.resident_models),
        dedicated_to=message.dedicated_to,
        recent_deaths=message.recent_deaths,
        backing_off_until_unix_ms=message.backing_off_until_unix_ms,
    )


def explanation_from_wire(message: fleet_pb2.ExplainResponse) -> Explanation:
    return Explanation(
        message.request_id, tuple(_decision_from_wire(decision) for decision in message.decisions)
    )


def _decision_from_wire(message: fleet_pb2.Decision) -> Decision:
    return Decision(
        attempt=message.attempt,
        decided_unix_ms=message.decided_unix_ms,
        chosen_worker_id=message.chosen_worker_id,
        candidates=tuple(
            Candidate(
                worker_id=c.worker_id,
                score_seconds=c.score_seconds,
                drain_seconds=c.drain_seconds,
                load_seconds=c.load_seconds,
                run_seconds=c.run_seconds,
                load_term_seconds=c.load_term_seconds,
                price_term_seconds=c.price_term_seconds,
                eviction_term_seconds=c.eviction_term_seconds,
                start_tier=tier_from_wire(c.start_tier),
                evict_digests=tuple(c.evict_digests),
            )
            for c in message.candidates
        ),
        refusals=tuple(Refusal(r.worker_id, r.reason, r.detail) for r in message.refusals),
        tie_break=message.tie_break,
    )


def ledger_line_from_wire(message: billing_pb2.LedgerLine) -> LedgerLine:
    return LedgerLine(
        attempt_id=message.attempt_id,
        request_id=message.request_id,
        tenant=message.tenant,
        model=message.model,
        worker_id=message.worker_id,
        gpu_type=message.gpu_type,
        attempt=message.attempt,
        outcome=state_from_wire(message.outcome),
        closed_unix_ms=message.closed_unix_ms,
        metered_ms=message.metered_ms,
        billed_ms=message.billed_ms,
        rate_nanodollars_per_second=message.rate_nanodollars_per_second,
        price_nanodollars=message.price_nanodollars,
        price_version=message.price_version,
        waiver=message.waiver,
        key_id=message.key_id,
        unit=message.unit,
        micro_units=message.micro_units,
        unit_price_nanodollars=message.unit_price_nanodollars,
    )


def usage_from_wire(message: billing_pb2.GetUsageResponse) -> Usage:
    def line(part: billing_pb2.UsageLine) -> UsageLine:
        return UsageLine(
            model=part.model,
            gpu_type=part.gpu_type,
            requests=part.requests,
            attempts=part.attempts,
            metered_ms=part.metered_ms,
            billed_ms=part.billed_ms,
            price_nanodollars=part.price_nanodollars,
            key_id=part.key_id,
            day=part.day,
        )

    return Usage(message.tenant, tuple(line(part) for part in message.lines), line(message.total))


def prices_from_wire(message: billing_pb2.GetPricesResponse) -> PriceTable:
    def prices(parts: Iterable[billing_pb2.Price]) -> tuple[Price, ...]:
        return tuple(Price(p.gpu_type, p.rate_nanodollars_per_second) for p in parts)

    models = tuple(
        ModelPrice(
            model=each.model,
            rate_nanodollars_per_second=(
                each.rate_nanodollars_per_second
                if each.HasField("rate_nanodollars_per_second")
                else None
            ),
            rates=prices(each.rates),
            unit=each.unit,
            unit_price_nanodollars=each.unit_price_nanodollars,
        )
        for each in message.models
    )
    return PriceTable(message.version, prices(message.prices), models, prices(message.dedicated))
