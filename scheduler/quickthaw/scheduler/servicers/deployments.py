"""What tenants deploy, and what packers do about it."""

from __future__ import annotations

from contextlib import suppress

import grpc.aio

from quickthaw.scheduler.auth import caller, check_admits
from quickthaw.scheduler.catalog import Catalog, CatalogModel
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.convert import deployments as convert
from quickthaw.scheduler.convert.models import model_message
from quickthaw.scheduler.convert.pages import page_size
from quickthaw.scheduler.convert.words import checked_text, invalid
from quickthaw.scheduler.deployment_rules import Failed
from quickthaw.scheduler.deployments import Deployments
from quickthaw.scheduler.keys import Scope
from quickthaw.v1 import deployments_pb2, deployments_pb2_grpc
from quickthaw.wire.errors import ModelNotFound

Context = grpc.aio.ServicerContext[object, object]

WAIT_MS_MAX = 30_000
LEASE_MS_MIN, LEASE_MS_MAX = 1_000, 600_000


class DeploymentsServicer(deployments_pb2_grpc.DeploymentsServicer):
    def __init__(self, deployments: Deployments, catalog: Catalog, clock: Clock) -> None:
        self._deployments = deployments
        self._catalog = catalog
        self._clock = clock

    async def Create(
        self, request: deployments_pb2.CreateDeploymentRequest, context: Context
    ) -> deployments_pb2.Deployment:
        who = caller()
        spec = convert.deployment_spec(request.spec, by_admin=who.may(Scope.ADMIN))
        check_admits(who, spec.model)
        return convert.deployment_message(await self._deployments.create(who.tenant, spec))

    async def Get(
        self, request: deployments_pb2.GetDeploymentRequest, context: Context
    ) -> deployments_pb2.Deployment:
        found = await self._deployments.find(caller().tenant, request.deployment_id)
        return convert.deployment_message(found)

    async def List(
        self, request: deployments_pb2.ListDeploymentsRequest, context: Context
    ) -> deployments_pb2.ListDeploymentsResponse:
        found, token = await self._deployments.page(
            caller().tenant,
            before_id=checked_text("page.token", request.page.token, chars_max=64),
            states=convert.states(request.states),
            size=page_size(request.page),
        )
        return deployments_pb2.ListDeploymentsResponse(
            deployments=[convert.deployment_message(each) for each in found],
            next_page_token=token,
        )

    async def Cancel(
        self, request: deployments_pb2.CancelDeploymentRequest, context: Context
    ) -> deployments_pb2.Deployment:
        after = await self._deployments.cancel(caller().tenant, request.deployment_id)
        return convert.deployment_message(after)

    async def Lease(
        self, request: deployments_pb2.LeaseDeploymentRequest, context: Context
    ) -> deployments_pb2.LeaseDeploymentResponse:
        if not 0 <= request.wait_ms <= WAIT_MS_MAX:
            raise invalid("wait_ms", f"must be 0 to {WAIT_MS_MAX}, not {request.wait_ms}")
        _check_lease(request.lease_ms)
        found = await self._deployments.lease(wait_ms=request.wait_ms, lease_ms=request.lease_ms)
        if found is None:
            return deployments_pb2.LeaseDeploymentResponse()
        answer = deployments_pb2.LeaseDeploymentResponse(
            deployment=convert.deployment_message(found), lease_id=found.lease_id
        )
        # A base that went meanwhile is absent, and the packer says so.
        with suppress(ModelNotFound):
            if found.spec.base:
                base = self._deployments.base(found.tenant, found.spec)
                answer.base.CopyFrom(model_message(base))
        return answer

    async def Report(
        self, request: deployments_pb2.ReportDeploymentRequest, context: Context
    ) -> deployments_pb2.ReportDeploymentResponse:
        _check_lease(request.lease_ms)
        after, counted = await self._deployments.report(
            request.deployment_id,
            checked_text("lease_id", request.lease_id, chars_max=64, required=True),
            lease_ms=request.lease_ms,
            state=convert.working_state(request.state),
            progress=convert.progress(request),
            outcome=await self._outcome(request),
        )
        return deployments_pb2.ReportDeploymentResponse(
            deployment=convert.deployment_message(after), ignored=not counted
        )

    async def _outcome(
        self, request: deployments_pb2.ReportDeploymentRequest
    ) -> Failed | CatalogModel | None:
        if request.HasField("failure"):
            return convert.failure(request.failure)
        if not request.HasField("packed"):
            return None
        name = (await self._deployments.find(None, request.deployment_id)).spec.model
        before = self._catalog.models().get(name)
        aliases = () if before is None else before.aliases
        return convert.packed_model(request.packed, name, aliases, self._clock.now_ms())


def _check_lease(lease_ms: int) -> None:
    if not LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX:
        raise invalid("lease_ms", f"must be {LEASE_MS_MIN} to {LEASE_MS_MAX}, not {lease_ms}")
