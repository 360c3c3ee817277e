"""Deployments: custom models that are packed by the platform, and what packers do about them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from dataclasses import dataclass
from enum import StrEnum

from quickthaw.client import methods
from quickthaw.client.async_driver import AsyncDriver
from quickthaw.client.catalog import Model, Visibility
from quickthaw.client.convert import (
    enum_from_wire,
    failure_from_wire,
    json_from_wire,
    json_to_wire,
)
from quickthaw.client.convert_operators import model_from_wire, model_to_wire
from quickthaw.client.inference import PAGE_SIZE
from quickthaw.client.requests import Failure, JsonObject
from quickthaw.client.retry import Context, call_with_retry
from quickthaw.client.steps import Item, Iteration, Operation
from quickthaw.client.sync_driver import SyncDriver
from quickthaw.v1 import catalog_pb2, deployments_pb2, types_pb2


class DeploymentState(StrEnum):
    """Where a deployment stands."""

    UNKNOWN = "unknown"
    WAITING = "waiting"
    PACKING = "packing"
    TESTING = "testing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class DeploymentFile:
    """An uploaded file and its place in what is deployed."""

    path: str
    file_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What shall be deployed. `quickthaw.v1.DeploymentSpec` says what each field means."""

    model: str
    files: tuple[DeploymentFile, ...]
    base: str = ""
    family: str = ""
    defaults: JsonObject | None = None
    test: JsonObject | None = None
    component: str = ""
    dtype: str = ""
    quantize: str = ""
    scale: float = 0.0
    title: str = ""
    license: str = ""
    visibility: Visibility | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment and what became of it."""

    deployment_id: str
    tenant: str
    spec: DeploymentSpec
    state: DeploymentState
    step: str
    done_bytes: int
    total_bytes: int
    """Of the step; 0 while unknown."""
    attempts: int
    created_unix_ms: int
    updated_unix_ms: int
    finished_unix_ms: int
    failure: Failure | None
    """Of the last try."""
    version: int
    """Which version of the model it became; 0 until it is ready."""
    snapshot_digest: str
    self_test_request_id: str


@dataclass(frozen=True, slots=True)
class LeasedDeployment:
    """What a packer is to pack."""

    deployment: Deployment
    lease_id: str
    base: Model | None


@dataclass(frozen=True, slots=True)
class DeploymentReport:
    """How a leased deployment goes on; at most one of `failure` and `packed` ends it."""

    state: DeploymentState
    step: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    self_test_request_id: str = ""
    failure: Failure | None = None
    packed: Model | None = None


def spec_to_wire(spec: DeploymentSpec) -> deployments_pb2.DeploymentSpec:
    visibility = catalog_pb2.VISIBILITY_UNSPECIFIED
    if spec.visibility is not None:
        visibility = catalog_pb2.Visibility.Value(f"VISIBILITY_{spec.visibility.name}")
    return deployments_pb2.DeploymentSpec(
        model=spec.model,
        base=spec.base,
        family=spec.family,
        files=[
            deployments_pb2.DeploymentFile(
                path=each.path, file_id=each.file_id, size_bytes=each.size_bytes
            )
            for each in spec.files
        ],
        defaults_json=json_to_wire(spec.defaults) if spec.defaults else "",
        test_json=json_to_wire(spec.test) if spec.test else "",
        component=spec.component,
        dtype=spec.dtype,
        quantize=spec.quantize,
        scale=spec.scale,
        title=spec.title,
        license=spec.license,
        visibility=visibility,
    )


def _spec_from_wire(message: deployments_pb2.DeploymentSpec) -> DeploymentSpec:
    visibility = None
    if message.visibility != catalog_pb2.VISIBILITY_UNSPECIFIED:
        name_of = catalog_pb2.Visibility.Name
        visibility = enum_from_wire(Visibility, name_of, "VISIBILITY_", message.visibility)
    return DeploymentSpec(
        model=message.model,
        files=tuple(DeploymentFile(f.path, f.file_id, f.size_bytes) for f in message.files),
        base=message.base,
        family=message.family,
        defaults=json_from_wire(message.defaults_json),
        test=json_from_wire(message.test_json),
        component=message.component,
        dtype=message.dtype,
        quantize=message.quantize,
        scale=message.scale,
        title=message.title,
        license=message.license,
        visibility=visibility,
    )


def _state(number: deployments_pb2.DeploymentState.ValueType) -> DeploymentState:
    try:
        name = deployments_pb2.DeploymentState.Name(number)
        return DeploymentState(name.removeprefix("DEPLOYMENT_STATE_").lower())
    except ValueError:
        return DeploymentState.UNKNOWN  # From a newer platform.


def deployment_from_wire(message: deployments_pb2.Deployment) -> Deployment:
    return Deployment(
        deployment_id=message.deployment_id,
        tenant=message.tenant,
        spec=_spec_from_wire(message.spec),
        state=_state(message.state),
        step=message.step,
        done_bytes=message.done_bytes,
        total_bytes=message.total_bytes,
        attempts=message.attempts,
        created_unix_ms=message.created_unix_ms,
        updated_unix_ms=message.updated_unix_ms,
        finished_unix_ms=message.finished_unix_ms,
        failure=failure_from_wire(message.failure) if message.HasField("failure") else None,
        version=message.version,
        snapshot_digest=message.snapshot_digest,
        self_test_request_id=message.self_test_request_id,
    )


def create_deployment(context: Context, spec: DeploymentSpec) -> Operation[Deployment]:
    message = deployments_pb2.CreateDeploymentRequest(spec=spec_to_wire(spec))
    made = yield from call_with_retry(context, methods.CREATE_DEPLOYMENT, message)
    return deployment_from_wire(made)


def get_deployment(context: Context, deployment_id: str) -> Operation[Deployment]:
    message = deployments_pb2.GetDeploymentRequest(deployment_id=deployment_id)
    found = yield from call_with_retry(context, methods.GET_DEPLOYMENT, message)
    return deployment_from_wire(found)


def cancel_deployment(context: Context, deployment_id: str) -> Operation[Deployment]:
    message = deployments_pb2.CancelDeploymentRequest(deployment_id=deployment_id)
    after = yield from call_with_retry(context, methods.CANCEL_DEPLOYMENT, message)
    return deployment_from_wire(after)


def list_deployments(
    context: Context, states: Iterable[DeploymentState], limit: int | None
) -> Iteration[Deployment, None]:
    value_of = deployments_pb2.DeploymentState.Value
    message = deployments_pb2.ListDeploymentsRequest(
        states=[value_of(f"DEPLOYMENT_STATE_{each.name}") for each in states]
    )
    message.page.size = PAGE_SIZE if limit is None else max(1, min(PAGE_SIZE, limit))
    count = 0
    while True:
        answer = yield from call_with_retry(context, methods.LIST_DEPLOYMENTS, message)
        for each in answer.deployments:
            if limit is not None and count >= limit:
                return
            count += 1
            yield Item(deployment_from_wire(each))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token


def lease_deployment(
    context: Context, wait_ms: int, lease_ms: int
) -> Operation[LeasedDeployment | None]:
    message = deployments_pb2.LeaseDeploymentRequest(wait_ms=wait_ms, lease_ms=lease_ms)
    answer = yield from call_with_retry(context, methods.LEASE_DEPLOYMENT, message)
    if not answer.HasField("deployment"):
        return None
    base = model_from_wire(answer.base) if answer.HasField("base") else None
    return LeasedDeployment(deployment_from_wire(answer.deployment), answer.lease_id, base)


def report_deployment(
    context: Context,
    deployment_id: str,
    lease_id: str,
    lease_ms: int,
    report: DeploymentReport,
) -> Operation[Deployment | None]:
    value_of = deployments_pb2.DeploymentState.Value
    message = deployments_pb2.ReportDeploymentRequest(
        deployment_id=deployment_id,
        lease_id=lease_id,
        lease_ms=lease_ms,
        state=value_of(f"DEPLOYMENT_STATE_{report.state.name}"),
        step=report.step,
        done_bytes=report.done_bytes,
        total_bytes=report.total_bytes,
        self_test_request_id=report.self_test_request_id,
        packed=None if report.packed is None else model_to_wire(report.packed),
    )
    if report.failure is not None:
        failure = report.failure
        message.failure.CopyFrom(
            types_pb2.Failure(
                reason=failure.reason, message=failure.message, retryable=failure.retryable
            )
        )
    answer = yield from call_with_retry(context, methods.REPORT_DEPLOYMENT, message)
    return None if answer.ignored else deployment_from_wire(answer.deployment)


class Deployments:
    """The tenant's deployments, as `Client.deployments`. Needs the scope `deploy`."""

    def __init__(self, context: Context, driver: SyncDriver) -> None:
        self._context = context
        self._driver = driver

    def create(self, spec: DeploymentSpec) -> Deployment:
        """Of files that were uploaded to a gateway. Durable when this returns. Raises
        InvalidArgument, ModelNotFound (the base), PermissionDenied (the name), AlreadyExists,
        ResourceExhausted (quotas)."""
        return self._driver.drive(create_deployment(self._context, spec))

    def list(
        self, *, states: Iterable[DeploymentState] = (), limit: int | None = None
    ) -> Generator[Deployment, None, None]:
        """Newest first, fetched page by page. No states means all."""
        return self._driver.iterate(list_deployments(self._context, states, limit))

    def get(self, deployment_id: str) -> Deployment:
        """As it is now. Raises NotFound."""
        return self._driver.drive(get_deployment(self._context, deployment_id))

    def cancel(self, deployment_id: str) -> Deployment:
        """Ends it; one that has ended is answered as it is. Raises NotFound."""
        return self._driver.drive(cancel_deployment(self._context, deployment_id))

    def lease(self, *, wait_ms: int, lease_ms: int) -> LeasedDeployment | None:
        """What waits to be packed; None if nothing does. Not repeated after a broken connection.
        Needs the scope `admin`."""
        return self._driver.drive(lease_deployment(self._context, wait_ms, lease_ms))

    def report(
        self, deployment_id: str, lease_id: str, lease_ms: int, report: DeploymentReport
    ) -> Deployment | None:
        """As it is now; None if the lease is no longer the caller's. Needs the scope `admin`."""
        return self._driver.drive(
            report_deployment(self._context, deployment_id, lease_id, lease_ms, report)
        )


class AsyncDeployments:
    """The tenant's deployments, as `Client.deployments`."""

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """As `Client.deployments.create`, with its errors."""
        return await self._driver.drive(create_deployment(self._context, spec))

    def list(
        self, *, states: Iterable[DeploymentState] = (), limit: int | None = None
    ) -> AsyncGenerator[Deployment, None]:
        """As `Client.deployments.list`, with its errors."""
        return self._driver.iterate(list_deployments(self._context, states, limit))

    async def get(self, deployment_id: str) -> Deployment:
        """As `Client.deployments.get`, with its errors."""
        return await self._driver.drive(get_deployment(self._context, deployment_id))

    async def cancel(self, deployment_id: str) -> Deployment:
        """As `Client.deployments.cancel`, with its errors."""
        return await self._driver.drive(cancel_deployment(self._context, deployment_id))

    async def lease(self, *, wait_ms: int, lease_ms: int) -> LeasedDeployment | None:
        """As `Client.deployments.lease`, with its errors."""
        return await self._driver.drive(lease_deployment(self._context, wait_ms, lease_ms))

    async def report(
        self, deployment_id: str, lease_id: str, lease_ms: int, report: DeploymentReport
    ) -> Deployment | None:
        """As `Client.deployments.report`, with its errors."""
        return await self._driver.drive(
            report_deployment(self._context, deployment_id, lease_id, lease_ms, report)
        )
