"""What the blocking and the awaiting driver share: channel options, metadata, errors."""

from __future__ import annotations

from typing import cast

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from quickthaw.client.settings import Endpoint
from quickthaw.wire.dialling import Dialler
from quickthaw.wire.errors import FailedPrecondition, QuickthawError, SettingsInvalid, Unavailable
from quickthaw.wire.limits import CHANNEL_OPTIONS, METADATA_BYTES_MAX
from quickthaw.wire.status import error_from_rpc

# gRPC waits up to two minutes before it dials again; the retry policy decides that here.
OPTIONS: list[tuple[str, int]] = [
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

_CUT_OFF = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


def dialler(endpoint: Endpoint) -> Dialler:
    """Raises SettingsInvalid for files that cannot be used."""
    return Dialler(endpoint.target, endpoint.files if endpoint.tls else None, OPTIONS)


def metadata(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """Raises SettingsInvalid for a key that cannot be sent."""
    key = endpoint.key
    if not key.isascii() or not key.isprintable() or len(key) > METADATA_BYTES_MAX // 2:
        raise SettingsInvalid("the key is not one of ours: it must be printable ASCII on one line")
    return (("authorization", f"Key {key}"),)


def unreached(error: grpc.RpcError) -> str | None:
    """What gRPC says of a call that may have reached nobody; None for any other."""
    call = cast("grpc.Call", error)
    if call.code() is grpc.StatusCode.UNAVAILABLE and rpc_status.from_call(call) is None:
        return call.details() or ""
    return None


def error_of(
    error: grpc.RpcError,
    endpoint: Endpoint,
    timeout_seconds: float | None,
    trouble: str | None = None,
) -> QuickthawError:
    """Our error for a failed call.

    `trouble` is what `Dialler.trouble` finds; trying again is no use then.

    What gRPC itself says of a broken connection becomes Unavailable with the address in it: a
    cancellation that this side did not ask for (the server stopped), a timeout of the transport.
    """
    call = cast("grpc.Call", error)
    if rpc_status.from_call(call) is not None:
        return error_from_rpc(error)
    code, text = call.code(), call.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_seconds is not None:
        return Unavailable(f"no answer from {endpoint.target} within {timeout_seconds:g} s")
    if trouble is not None:
        return FailedPrecondition(trouble)
    if code in _CUT_OFF:
        return Unavailable(f"{endpoint.target} broke the call off: {text or code.name}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"cannot reach {endpoint.target}: {_plainly(text)}")
    return error_from_rpc(error)


def _plainly(text: str) -> str:
    """What gRPC says of an address where nobody is, or somebody who speaks something else."""
    if "Connection refused" in text:
        return "connection refused, nothing listens there"
    if "Failed parsing HTTP/2" in text:
        return "what answers is no gRPC; give the scheduler's address, not the gateway's"
    return text


def check_open(closed: bool) -> None:
    if closed:
        raise FailedPrecondition("this client is closed; make a new one")


def serialize(message: Message) -> bytes:
    return message.SerializeToString()
