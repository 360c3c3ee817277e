"""All routes of the gateway behind its front."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.routing import Router, WebSocketRoute
from starlette.websockets import WebSocket

from quickthaw.gateway import (
    bringing,
    deployments,
    fal,
    files,
    health,
    openai,
    openapi,
    pages,
    replicate,
    webhooks,
)
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.front import Front
from quickthaw.v1 import webhooks_pb2

WEBHOOK_BODIES: Mapping[webhooks_pb2.WebhookDialect.ValueType, webhooks.Body] = {
    webhooks_pb2.WEBHOOK_DIALECT_FAL: fal.webhook_body,
    webhooks_pb2.WEBHOOK_DIALECT_REPLICATE: replicate.webhook_body,
}


def build_app(gateway: Gateway) -> Front:
    routes = [
        *(*pages.ROUTES, *health.ROUTES, *openapi.ROUTES, *files.ROUTES),
        *(*webhooks.ROUTES, *replicate.ROUTES, *bringing.ROUTES),
        *(*deployments.ROUTES, *fal.ROUTES, *openai.ROUTES),
        WebSocketRoute("/{path:path}", _no_websocket),
    ]
    dialects = {"openai": openai.error_response, "replicate": replicate.error_response}
    # A redirect is an error for half of the clients; the front has taken the slash off already.
    return Front(Router(routes, redirect_slashes=False), gateway, dialects)


async def _no_websocket(websocket: WebSocket) -> None:
    """The router itself would answer 403, as if a key could help."""
    raise HTTPException(404)
