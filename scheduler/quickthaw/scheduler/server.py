"""The gRPC server: services, interceptors, limits."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from quickthaw.scheduler.auth import AuthInterceptor
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.v1 import (
    billing_pb2,
    catalog_pb2,
    deployments_pb2,
    fleet_pb2,
    inference_pb2,
    traffic_pb2,
    webhooks_pb2,
)
from quickthaw.wire.limits import SERVER_OPTIONS
from quickthaw.wire.process import Address, address_in_use
from quickthaw.wire.status import ErrorInterceptor

logger = logging.getLogger(__name__)

KEYLESS_METHODS = 4
"""Check, List and Watch of health, and reflection."""

_SERVICES = tuple(
    service
    for module in (
        inference_pb2,
        catalog_pb2,
        deployments_pb2,
        fleet_pb2,
        billing_pb2,
        traffic_pb2,
        webhooks_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
SERVICES: Sequence[str] = tuple(service.full_name for service in _SERVICES)
METHODS: Sequence[str] = tuple(
    f"{service.name}/{method.name}" for service in _SERVICES for method in service.methods
)


def make_server(
    auth: AuthInterceptor, metrics: SchedulerMetrics, rpcs_max: int, keyless_rpcs_max: int
) -> grpc.aio.Server:
    """Errors are translated outermost, so that what the others raise is too. `keyless_rpcs_max`:
    what `auth` lets in without a key, of each method; those come on top of `rpcs_max`."""
    metrics.expect_bugs(METHODS)
    return grpc.aio.server(
        interceptors=[ErrorInterceptor(metrics.rpc_error), auth],
        options=SERVER_OPTIONS,
        maximum_concurrent_rpcs=rpcs_max + KEYLESS_METHODS * keyless_rpcs_max,
    )


def listen(
    server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials | None = None
) -> Address:
    """Binds without serving yet; the address with its real port. `credentials` None is for plain
    text. Raises AddressInUse."""
    if credentials is None and not address.is_loopback:
        logger.warning(
            "gRPC on %s is plain text: whoever is on the way reads keys and requests; give "
            "--tls-cert and --tls-key, or keep it to a network that you trust",
            address,
        )
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise address_in_use("the scheduler", address) from error
    return Address(address.host, port)


class Health:
    """`grpc.health.v1` for the whole server and for each service."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )

    async def set_serving(self, serving: bool) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", *SERVICES):
            await self._servicer.set(service, status)
