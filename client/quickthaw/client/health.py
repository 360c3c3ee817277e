"""Whether a scheduler serves, by the standard gRPC health service; no key is needed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from quickthaw.client.settings import Endpoint, find_target
from quickthaw.client.transport import dialler, error_of, serialize, unreached
from quickthaw.wire.tls_settings import TlsFiles

_CHECK = "/grpc.health.v1.Health/Check"


def serving(
    grpc_address: str | None = None,
    *,
    data_dir: Path | None = None,
    tls: TlsFiles | None = None,
    timeout_seconds: float = 5.0,
) -> bool:
    """Asks once. False from a scheduler whose store is away, or that is stopping.

    The address is found as for `Client`. Raises Unavailable, which a standby is, and
    FailedPrecondition where it is TLS that is wrong.
    """
    target, files = find_target(grpc_address, data_dir, tls=tls)
    endpoint = Endpoint(target, "", files is not None, files or TlsFiles())
    dialled = dialler(endpoint)
    with closing(dialled.open_blocking()) as channel:
        check = channel.unary_unary(_CHECK, serialize, health_pb2.HealthCheckResponse.FromString)
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            text = unreached(error)
            trouble = None if text is None else dialled.trouble(text)
            raise error_of(error, endpoint, timeout_seconds, trouble) from error
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
