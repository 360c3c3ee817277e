"""The calls on models, workers, decisions, money and keys, once for both clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quickthaw.client import methods
from quickthaw.client.billing import (
    LedgerLine,
    PriceTable,
    Usage,
    UsageDimension,
)
from quickthaw.client.catalog import Model, ModelEndpoint, Registered
from quickthaw.client.convert_accounts import dimension_to_wire
from quickthaw.client.convert_operators import (
    endpoint_from_wire,
    endpoint_to_wire,
    explanation_from_wire,
    ledger_line_from_wire,
    model_from_wire,
    model_to_wire,
    prices_from_wire,
    registered_from_wire,
    usage_from_wire,
    worker_from_wire,
)
from quickthaw.client.fleet import EstimateCheck, Explanation, FleetStatus, Worker
from quickthaw.client.inference import PAGE_SIZE
from quickthaw.client.retry import Context, call_with_retry
from quickthaw.client.steps import Item, Iteration, Operation
from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2


@dataclass(frozen=True, slots=True)
class Period:
    """A span of time and whose; 0 and the empty text leave it open."""

    tenant: str = ""
    """Empty for the caller's own; another's needs the scope `admin`."""
    from_unix_ms: int = 0
    """Inclusive."""
    until_unix_ms: int = 0
    """Exclusive; 0 for now."""


def get_model(context: Context, model: str) -> Operation[Model]:
    message = catalog_pb2.GetModelRequest(id=model)
    return model_from_wire((yield from call_with_retry(context, methods.GET_MODEL, message)))


def list_models(context: Context) -> Iteration[Model, None]:
    message = catalog_pb2.ListModelsRequest()
    message.page.size = PAGE_SIZE
    while True:
        answer = yield from call_with_retry(context, methods.LIST_MODELS, message)
        for model in answer.models:
            yield Item(model_from_wire(model))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token


def register_model(
    context: Context, model: Model, endpoint: ModelEndpoint | None = None
) -> Operation[Registered]:
    message = catalog_pb2.RegisterRequest(
        model=model_to_wire(model),
        endpoint=None if endpoint is None else endpoint_to_wire(endpoint),
    )
    return registered_from_wire((yield from call_with_retry(context, methods.REGISTER, message)))


def remove_model(context: Context, model: str) -> Operation[None]:
    yield from call_with_retry(context, methods.REMOVE, catalog_pb2.RemoveRequest(id=model))


def get_endpoint(context: Context, model: str) -> Operation[ModelEndpoint]:
    message = catalog_pb2.GetEndpointRequest(model=model)
    return endpoint_from_wire((yield from call_with_retry(context, methods.GET_ENDPOINT, message)))


def set_endpoint(
    context: Context, model: str, endpoint: ModelEndpoint, names: Sequence[str]
) -> Operation[ModelEndpoint]:
    message = catalog_pb2.SetEndpointRequest(
        model=model, endpoint=endpoint_to_wire(endpoint), names=names
    )
    return endpoint_from_wire((yield from call_with_retry(context, methods.SET_ENDPOINT, message)))


def list_endpoints(context: Context) -> Iteration[ModelEndpoint, None]:
    message = catalog_pb2.ListEndpointsRequest()
    message.page.size = PAGE_SIZE
    while True:
        answer = yield from call_with_retry(context, methods.LIST_ENDPOINTS, message)
        for endpoint in answer.endpoints:
            yield Item(endpoint_from_wire(endpoint))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token


def release_quarantine(context: Context, model: str) -> Operation[ModelEndpoint]:
    message = catalog_pb2.ReleaseQuarantineRequest(model=model)
    answer = yield from call_with_retry(context, methods.RELEASE_QUARANTINE, message)
    return endpoint_from_wire(answer)


def list_workers(context: Context) -> Operation[tuple[Worker, ...]]:
    message = fleet_pb2.ListWorkersRequest()
    answer = yield from call_with_retry(context, methods.LIST_WORKERS, message)
    return tuple(worker_from_wire(worker) for worker in answer.workers)


def fleet_status(context: Context) -> Operation[FleetStatus]:
    message = fleet_pb2.ListWorkersRequest()
    answer = yield from call_with_retry(context, methods.LIST_WORKERS, message)
    workers = tuple(worker_from_wire(worker) for worker in answer.workers)
    checks = tuple(
        EstimateCheck(each.kind, each.tested, each.within_p50, each.within_p95)
        for each in answer.estimate_checks
    )
    return FleetStatus(workers, answer.workers_wanted, checks)


def drain(context: Context, worker_id: str, stop: bool) -> Operation[Worker]:
    message = fleet_pb2.DrainRequest(worker_id=worker_id, stop=stop)
    answer = yield from call_with_retry(context, methods.DRAIN, message)
    return worker_from_wire(answer.worker)


def cordon(context: Context, worker_id: str) -> Operation[Worker]:
    message = fleet_pb2.CordonRequest(worker_id=worker_id)
    answer = yield from call_with_retry(context, methods.CORDON, message)
    return worker_from_wire(answer.worker)


def uncordon(context: Context, worker_id: str) -> Operation[Worker]:
    message = fleet_pb2.UncordonRequest(worker_id=worker_id)
    answer = yield from call_with_retry(context, methods.UNCORDON, message)
    return worker_from_wire(answer.worker)


def explain(context: Context, request_id: str) -> Operation[Explanation]:
    message = fleet_pb2.ExplainRequest(request_id=request_id)
    return explanation_from_wire((yield from call_with_retry(context, methods.EXPLAIN, message)))


def usage(context: Context, period: Period, by: Sequence[UsageDimension]) -> Operation[Usage]:
    message = billing_pb2.GetUsageRequest(
        tenant=period.tenant,
        from_unix_ms=period.from_unix_ms,
        until_unix_ms=period.until_unix_ms,
        by=[dimension_to_wire(each) for each in by],
    )
    return usage_from_wire((yield from call_with_retry(context, methods.GET_USAGE, message)))


def ledger(context: Context, period: Period, request_id: str) -> Iteration[LedgerLine, None]:
    message = billing_pb2.ListLedgerRequest(
        tenant=period.tenant,
        from_unix_ms=period.from_unix_ms,
        until_unix_ms=period.until_unix_ms,
        request_id=request_id,
    )
    message.page.size = PAGE_SIZE
    while True:
        answer = yield from call_with_retry(context, methods.LIST_LEDGER, message)
        for line in answer.lines:
            yield Item(ledger_line_from_wire(line))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token


def prices(context: Context) -> Operation[PriceTable]:
    message = billing_pb2.GetPricesRequest()
    return prices_from_wire((yield from call_with_retry(context, methods.GET_PRICES, message)))
