"""Deployments in tests: what a tenant asks for, and a packer that a test plays."""

from __future__ import annotations

from dataclasses import dataclass

from quickthaw.v1 import (
    billing_pb2,
    catalog_pb2,
    deployments_pb2,
    deployments_pb2_grpc,
    types_pb2,
)
from support.schedulers import Caller, Running

PACKING = deployments_pb2.DEPLOYMENT_STATE_PACKING
TESTING = deployments_pb2.DEPLOYMENT_STATE_TESTING
LEASE_MS = 60_000


def deployments_of(caller: Caller) -> deployments_pb2_grpc.DeploymentsAsyncStub:
    return deployments_pb2_grpc.DeploymentsStub(caller.channel)


async def a_deployer(running: Running, tenant: str, *scopes: billing_pb2.Scope.ValueType) -> Caller:
    """A caller with a key of the tenant: to call and to deploy, unless scopes are given."""
    made = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(
            tenant=tenant, scopes=scopes or (billing_pb2.SCOPE_CALL, billing_pb2.SCOPE_DEPLOY)
        )
    )
    return Caller(running.address, made.secret)


def a_spec(
    model: str = "me/style", base: str = "test/tiny", size_bytes: int = 1000
) -> deployments_pb2.DeploymentSpec:
    file = deployments_pb2.DeploymentFile(
        path="style.safetensors", file_id="0" * 48, size_bytes=size_bytes
    )
    return deployments_pb2.DeploymentSpec(model=model, base=base, files=[file])


async def ask(
    caller: Caller, spec: deployments_pb2.DeploymentSpec | None = None
) -> deployments_pb2.Deployment:
    wanted = deployments_pb2.CreateDeploymentRequest(spec=spec or a_spec())
    return await deployments_of(caller).Create(wanted)


async def look(caller: Caller, deployment_id: str) -> deployments_pb2.Deployment:
    wanted = deployments_pb2.GetDeploymentRequest(deployment_id=deployment_id)
    return await deployments_of(caller).Get(wanted)


@dataclass
class Packer:
    """Does what a packer does, one call at a time."""

    admin: Caller

    async def lease(
        self, wait_ms: int = 0, lease_ms: int = LEASE_MS
    ) -> deployments_pb2.LeaseDeploymentResponse:
        wanted = deployments_pb2.LeaseDeploymentRequest(wait_ms=wait_ms, lease_ms=lease_ms)
        return await deployments_of(self.admin).Lease(wanted)

    async def report(
        self,
        leased: deployments_pb2.LeaseDeploymentResponse,
        state: deployments_pb2.DeploymentState.ValueType = PACKING,
        *,
        step: str = "",
        failure: types_pb2.Failure | None = None,
        packed: catalog_pb2.Model | None = None,
    ) -> deployments_pb2.ReportDeploymentResponse:
        message = deployments_pb2.ReportDeploymentRequest(
            deployment_id=leased.deployment.deployment_id,
            lease_id=leased.lease_id,
            lease_ms=LEASE_MS,
            state=state,
            step=step,
            failure=failure,
            packed=packed,
        )
        return await deployments_of(self.admin).Report(message)
