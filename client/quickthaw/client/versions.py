"""The calls on what models have been, once for both clients."""

from __future__ import annotations

from quickthaw.client import methods
from quickthaw.client.catalog import ModelVersion, Registered, UnusedSnapshot
from quickthaw.client.convert_operators import model_from_wire, registered_from_wire
from quickthaw.client.inference import PAGE_SIZE
from quickthaw.client.retry import Context, call_with_retry
from quickthaw.client.steps import Item, Iteration, Operation
from quickthaw.v1 import catalog_pb2


def list_versions(context: Context, model: str) -> Iteration[ModelVersion, None]:
    message = catalog_pb2.ListVersionsRequest(model=model)
    message.page.size = PAGE_SIZE
    while True:
        answer = yield from call_with_retry(context, methods.LIST_VERSIONS, message)
        for each in answer.versions:
            yield Item(ModelVersion(each.number, model_from_wire(each.model), each.current))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token


def rollback(context: Context, model: str, number: int) -> Operation[Registered]:
    message = catalog_pb2.RollbackRequest(model=model, number=number)
    return registered_from_wire((yield from call_with_retry(context, methods.ROLLBACK, message)))


def unused_snapshots(context: Context) -> Operation[tuple[UnusedSnapshot, ...]]:
    message = catalog_pb2.ListUnusedSnapshotsRequest()
    answer = yield from call_with_retry(context, methods.LIST_UNUSED_SNAPSHOTS, message)
    return tuple(UnusedSnapshot(each.digest, each.uri) for each in answer.snapshots)
