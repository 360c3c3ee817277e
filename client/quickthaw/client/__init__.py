"""The gRPC client of Quickthaw, blocking (`Client`) and for asyncio (`AsyncClient`).

Errors are the classes of `quickthaw.wire.errors`.
"""

from quickthaw.client.aio import AsyncClient
from quickthaw.client.billing import (
    Key,
    LedgerLine,
    NewKey,
    Price,
    PriceTable,
    Scope,
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
from quickthaw.client.client import Client
from quickthaw.client.events import (
    Event,
    Finished,
    Logged,
    OtherEvent,
    Previewed,
    Progressed,
    RealtimeAnswer,
    RealtimeEvent,
    RealtimeRefused,
    StateChanged,
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
from quickthaw.client.inference import SubmitOptions
from quickthaw.client.operators import Period
from quickthaw.client.realtime import RealtimeSession
from quickthaw.client.requests import (
    Artifact,
    ComponentLoad,
    Estimate,
    Failure,
    JsonObject,
    JsonValue,
    LoadReport,
    Priority,
    Quote,
    Receipt,
    Request,
    RequestState,
    Submitted,
    Tier,
)
from quickthaw.client.retry import Context, RetryPolicy
from quickthaw.client.run_many import RunMany
from quickthaw.client.settings import Endpoint, RunFile, default_data_dir, find_endpoint
from quickthaw.client.traffic import TrafficEntry

__all__ = [
    "Artifact",
    "AsyncClient",
    "AttemptStatus",
    "Candidate",
    "Client",
    "Component",
    "ComponentLoad",
    "Context",
    "Decision",
    "Endpoint",
    "Estimate",
    "Event",
    "Explanation",
    "Failure",
    "Finished",
    "JsonObject",
    "JsonValue",
    "Key",
    "LedgerLine",
    "LoadReport",
    "Logged",
    "Model",
    "ModelEndpoint",
    "NewKey",
    "OtherEvent",
    "Period",
    "Previewed",
    "Price",
    "PriceTable",
    "Priority",
    "Progressed",
    "Quarantine",
    "Quote",
    "RealtimeAnswer",
    "RealtimeEvent",
    "RealtimeRefused",
    "RealtimeSession",
    "Receipt",
    "Refusal",
    "Registered",
    "Request",
    "RequestState",
    "Residency",
    "RetryPolicy",
    "RunFile",
    "RunMany",
    "Scope",
    "StateChanged",
    "SubmitOptions",
    "Submitted",
    "Tier",
    "TrafficEntry",
    "Usage",
    "UsageLine",
    "Visibility",
    "Worker",
    "WorkerState",
    "default_data_dir",
    "find_endpoint",
]
