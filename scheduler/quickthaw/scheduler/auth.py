"""Asks every call for a key and the key for a scope, by one table of methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TypeVar, cast

import grpc
import grpc.aio

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.keyless import OPEN_SERVICES, KeylessCalls
from quickthaw.scheduler.keys import Caller, KeyRing, Scope
from quickthaw.wire import errors

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

SCOPES: Mapping[str, Scope] = {
    **{
        f"/quickthaw.v1.Inference/{method}": Scope.CALL
        for method in (
            "Submit",
            "Run",
            "Get",
            "List",
            "Watch",
            "Cancel",
            "Quote",
            "Realtime",
            "RunMany",
            "ReadArtifact",
        )
    },
    "/quickthaw.v1.Catalog/Register": Scope.ADMIN,
    "/quickthaw.v1.Catalog/GetModel": Scope.CALL,
    "/quickthaw.v1.Catalog/ListModels": Scope.CALL,
    "/quickthaw.v1.Catalog/Remove": Scope.DEPLOY,
    "/quickthaw.v1.Catalog/GetEndpoint": Scope.CALL,
    "/quickthaw.v1.Catalog/SetEndpoint": Scope.ADMIN,
    "/quickthaw.v1.Catalog/ListEndpoints": Scope.CALL,
    "/quickthaw.v1.Catalog/ReleaseQuarantine": Scope.ADMIN,
    "/quickthaw.v1.Catalog/ListVersions": Scope.CALL,
    "/quickthaw.v1.Catalog/Rollback": Scope.DEPLOY,
    "/quickthaw.v1.Catalog/ListUnusedSnapshots": Scope.ADMIN,
    "/quickthaw.v1.Deployments/Create": Scope.DEPLOY,
    "/quickthaw.v1.Deployments/Get": Scope.DEPLOY,
    "/quickthaw.v1.Deployments/List": Scope.DEPLOY,
    "/quickthaw.v1.Deployments/Cancel": Scope.DEPLOY,
    "/quickthaw.v1.Deployments/Lease": Scope.ADMIN,
    "/quickthaw.v1.Deployments/Report": Scope.ADMIN,
    "/quickthaw.v1.Fleet/Attach": Scope.WORKER,
    "/quickthaw.v1.Fleet/ListWorkers": Scope.ADMIN,
    "/quickthaw.v1.Fleet/Drain": Scope.ADMIN,
    "/quickthaw.v1.Fleet/Cordon": Scope.ADMIN,
    "/quickthaw.v1.Fleet/Uncordon": Scope.ADMIN,
    "/quickthaw.v1.Fleet/Explain": Scope.CALL,
    "/quickthaw.v1.Traffic/ListTraffic": Scope.ADMIN,
    "/quickthaw.v1.Billing/GetUsage": Scope.CALL,
    "/quickthaw.v1.Billing/ListLedger": Scope.CALL,
    "/quickthaw.v1.Billing/GetPrices": Scope.CALL,
    "/quickthaw.v1.Billing/GetAccount": Scope.CALL,
    "/quickthaw.v1.Billing/ListAccounts": Scope.CALL,
    "/quickthaw.v1.Billing/ListAlerts": Scope.CALL,
    "/quickthaw.v1.Billing/SetBudget": Scope.ADMIN,
    "/quickthaw.v1.Billing/GrantCredit": Scope.ADMIN,
    "/quickthaw.v1.Billing/SetLock": Scope.ADMIN,
    "/quickthaw.v1.Webhooks/Claim": Scope.ADMIN,
    "/quickthaw.v1.Webhooks/Report": Scope.ADMIN,
    "/quickthaw.v1.Webhooks/ListSigningKeys": Scope.ADMIN,
    "/quickthaw.v1.Webhooks/RotateSigningKey": Scope.ADMIN,
    "/quickthaw.v1.Webhooks/GetSecret": Scope.CALL,
    "/quickthaw.v1.Webhooks/List": Scope.CALL,
    "/quickthaw.v1.Webhooks/Get": Scope.CALL,
    "/quickthaw.v1.Webhooks/Redeliver": Scope.CALL,
    "/quickthaw.v1.Accounts/CreateKey": Scope.ADMIN,
    "/quickthaw.v1.Accounts/ListKeys": Scope.ADMIN,
    "/quickthaw.v1.Accounts/RevokeKey": Scope.ADMIN,
    "/quickthaw.v1.Accounts/RotateKey": Scope.ADMIN,
    "/quickthaw.v1.Accounts/UpdateKey": Scope.ADMIN,
    "/quickthaw.v1.Accounts/WhoAmI": Scope.CALL,
}

_recheck: ContextVar[Callable[[], Caller]] = ContextVar("quickthaw_caller")


def caller() -> Caller:
    """Who made the call that the current task serves, as of now.

    Raises Unauthenticated on a stream whose key is good no longer.
    """
    return _recheck.get()()


def check_admits(who: Caller, model_id: str) -> None:
    """Raises PermissionDenied for a model that the key is not for."""
    if not who.record.limits.admit(model_id):
        raise errors.PermissionDenied(
            f"the key is for {', '.join(who.record.limits.models)} only, not for {model_id!r}"
        )


def tenant_in_question(named: str) -> str:
    """The caller's own tenant unless an admin names another. Raises PermissionDenied."""
    who = caller()
    if named and named != who.tenant and not who.may(Scope.ADMIN):
        raise errors.PermissionDenied(
            f"the key belongs to tenant {who.tenant!r}; reading {named!r} needs the scope 'admin'"
        )
    return named or who.tenant


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Runs inside the ErrorInterceptor, which turns what it raises into a status."""

    def __init__(self, keys: KeyRing, clock: Clock, keyless_rpcs_max: int) -> None:
        """`keyless_rpcs_max`: calls of each method that needs no key, open at once."""
        self._keys = keys
        self._clock = clock
        self._keyless = KeylessCalls(keyless_rpcs_max)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None],
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if method.split("/")[1] in OPEN_SERVICES:
            return self._keyless.bounded(method, handler)
        try:
            await self._admit(handler_call_details)
        except errors.QuickthawError as error:
            return cast("grpc.RpcMethodHandler[_Request, _Response]", _refusal(error))
        return handler

    async def _admit(self, details: grpc.HandlerCallDetails) -> None:
        method = details.method
        authorization: str | None = None
        for key, value in details.invocation_metadata or ():
            if key == "authorization" and isinstance(value, str):
                authorization = value
        who = await self._keys.authenticate(authorization, self._clock.now_ms())
        scope = SCOPES[method]
        if not who.may(scope):
            raise errors.PermissionDenied(
                f"{method} needs a key with the scope '{scope.value}'; this one has "
                f"{', '.join(sorted(s.value for s in who.scopes)) or 'none'}"
            )
        # The handler runs in the task that runs the interceptors, so it sees this.
        _recheck.set(lambda: self._keys.recheck(who, self._clock.now_ms()))


def _refusal(error: errors.QuickthawError) -> grpc.RpcMethodHandler[object, object]:
    """Raises for any kind of method, and asks for none of the request: on the wire all kinds are
    alike, and a handler of one request would first wait for all of it."""

    async def refuse(_requests: object, _context: object) -> AsyncIterator[object]:
        raise error
        yield

    # The stubs type handlers for the threaded server only; the asyncio one takes coroutines.
    make = cast(
        "Callable[..., grpc.RpcMethodHandler[object, object]]",
        grpc.stream_stream_rpc_method_handler,
    )
    return make(refuse)
