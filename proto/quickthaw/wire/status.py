"""The one map between our errors and gRPC statuses, applied in both directions.

A server wraps its servicers with `ErrorInterceptor`; whatever they raise leaves as a gRPC status
with google.rpc details: ErrorInfo (domain `quickthaw`, reason, metadata), BadRequest for argument
violations, RetryInfo where trying again makes sense. A client turns an `RpcError` back into the
same class with `error_from_rpc`. Anything that is not a `QuickthawError` becomes INTERNAL with an
opaque text and an id that is in the server's log beside the traceback.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from quickthaw.wire import errors

logger = logging.getLogger(__name__)

ERROR_DOMAIN = "quickthaw"
OUR_SERVICES = "/quickthaw."

STATUS: Mapping[type[errors.QuickthawError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SnapshotInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SettingsInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.RequestNotFound: grpc.StatusCode.NOT_FOUND,
    errors.WorkerNotFound: grpc.StatusCode.NOT_FOUND,
    errors.KeyNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ArtifactNotFound: grpc.StatusCode.NOT_FOUND,
    errors.WebhookNotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelCannotFit: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelQuarantined: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AddressInUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.MessageTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.BudgetExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExpired: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.StartTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestCancelled: grpc.StatusCode.CANCELLED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.SnapshotCorrupt: grpc.StatusCode.DATA_LOSS,
    errors.ArtifactCorrupt: grpc.StatusCode.DATA_LOSS,
    errors.Internal: grpc.StatusCode.INTERNAL,
    errors.EngineFailed: grpc.StatusCode.INTERNAL,
    errors.AttemptsExhausted: grpc.StatusCode.INTERNAL,
    errors.PoisonRequest: grpc.StatusCode.INTERNAL,
}

# A status that gRPC itself made (no details of ours) becomes the nearest class of ours.
_FROM_BARE_STATUS: Mapping[grpc.StatusCode, type[errors.QuickthawError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExpired,
    grpc.StatusCode.CANCELLED: errors.RequestCancelled,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
}


def to_status(error: errors.QuickthawError) -> status_pb2.Status:
    """The google.rpc.Status of an error, details packed."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata
        )
    ]
    if error.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad_request.field_violations.add(
                field=violation.field, description=violation.description
            )
        details.append(bad_request)
    if error.retry_delay_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_delay_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=STATUS[type(error)].value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def from_status(status: status_pb2.Status) -> errors.QuickthawError | None:
    """The error that `to_status` encoded, or None if the status carries no ErrorInfo of ours."""
    reason: str | None = None
    metadata: dict[str, str] = {}
    violations: tuple[errors.FieldViolation, ...] = ()
    retry_delay_seconds: float | None = None
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(info) and info.domain == ERROR_DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(bad_request):
            violations = tuple(
                errors.FieldViolation(v.field, v.description) for v in bad_request.field_violations
            )
        elif packed.Unpack(retry):
            retry_delay_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    if reason is None:
        return None
    error = errors.error_for_reason(reason, status.message)
    error.metadata.update(metadata)
    error.violations = violations
    error.retry_delay_seconds = retry_delay_seconds
    return error


def error_from_rpc(error: grpc.RpcError) -> errors.QuickthawError:
    """Our error for a failed call, sync or asyncio."""
    call = cast("grpc.Call", error)
    status = rpc_status.from_call(call)
    if status is not None and (ours := from_status(status)) is not None:
        return ours
    code = call.code()
    text = call.details() or str(code)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        # Which end noticed is of no use to the caller.
        text = text.removeprefix("CLIENT: ").removeprefix("SERVER: ")
        return errors.MessageTooLarge(f"{text}; send less in one message")
    return _FROM_BARE_STATUS.get(code, errors.Internal)(text)


def translate(error: BaseException) -> errors.QuickthawError:
    """Any exception as one of ours; an unknown one is logged in full and told opaquely."""
    if isinstance(error, errors.QuickthawError):
        return error
    incident = secrets.token_hex(6)
    logger.error("incident %s", incident, exc_info=error)
    return errors.Internal(
        f"internal error; the server's log has the details under incident {incident}",
        metadata={"incident": incident},
    )


class _Context(Protocol):
    async def abort_with_status(self, status: grpc.Status) -> None: ...


async def _abort(context: _Context, error: errors.QuickthawError) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
# A string: the class is generic for the type checkers only.
_Handler: TypeAlias = "grpc.RpcMethodHandler[_Request, _Response]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns whatever a servicer raises into a status. `on_error(method, reason)` counts them."""

    def __init__(self, on_error: Callable[[str, str], None] | None = None) -> None:
        self._on_error = on_error
        # By method, because a handler is the same for every call that is let in.
        self._wrapped: dict[str, tuple[object, object]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[_Handler[_Request, _Response] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler[_Request, _Response] | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # Health and reflection come with statuses, and styles of handlers, of their own.
        if handler is None or not method.startswith(OUR_SERVICES):
            return handler
        wrap = self._wrap_streaming if handler.response_streaming else self._wrap_unary
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            wrapped = wrap(handler, method)
            self._wrapped[method] = (handler, wrapped)
        return cast("_Handler[_Request, _Response]", wrapped)

    async def _fail(self, method: str, context: _Context, error: BaseException) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        ours = translate(error)
        if self._on_error is not None:
            self._on_error(method, ours.reason)
        await _abort(context, ours)

    def _wrap_unary(
        self, handler: _Handler[_Request, _Response], method: str
    ) -> _Handler[_Request, _Response]:
        inner = cast(
            "Callable[[object, _Context], Awaitable[object]]",
            handler.stream_unary if handler.request_streaming else handler.unary_unary,
        )

        async def call(request: object, context: _Context) -> object:
            try:
                return await inner(request, context)
            except Exception as error:
                await self._fail(method, context, error)
                raise

        # The stubs type handlers for the threaded server only; the asyncio one takes coroutines.
        make = cast(
            "Callable[..., object]",
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler,
        )
        return cast(
            "_Handler[_Request, _Response]",
            make(call, handler.request_deserializer, handler.response_serializer),
        )

    def _wrap_streaming(
        self, handler: _Handler[_Request, _Response], method: str
    ) -> _Handler[_Request, _Response]:
        inner = cast(
            "Callable[[object, _Context], AsyncGenerator[object, None]]",
            handler.stream_stream if handler.request_streaming else handler.unary_stream,
        )

        async def call(request: object, context: _Context) -> AsyncIterator[object]:
            try:
                # Closed at once, whatever ends this: it has a stream's loose ends to tie up.
                async with contextlib.aclosing(inner(request, context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:
                await self._fail(method, context, error)

        # The stubs type handlers for the threaded server only; the asyncio one takes coroutines.
        make = cast(
            "Callable[..., object]",
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler,
        )
        return cast(
            "_Handler[_Request, _Response]",
            make(call, handler.request_deserializer, handler.response_serializer),
        )
