"""fal's routes. Paths arrive with their surface's prefix and without a trailing slash."""

from __future__ import annotations

from starlette.routing import Route, WebSocketRoute

from quickthaw.gateway.fal import catalog, pricing, proxy, queue, storage
from quickthaw.gateway.fal.over_websocket import over_websocket
from quickthaw.gateway.fal.realtime import realtime
from quickthaw.gateway.fal.run import run
from quickthaw.gateway.fal.schema import queue_document
from quickthaw.gateway.fal.status_socket import status_socket
from quickthaw.gateway.fal.stream import stream
from quickthaw.gateway.fal.tokens import create_token

_REQUEST = "/queue/{endpoint:path}/requests/{request_id}"

ROUTES = [
    Route(f"{_REQUEST}/status/stream", queue.status_stream, methods=["GET"]),
    Route(f"{_REQUEST}/status", queue.status, methods=["GET"]),
    Route(f"{_REQUEST}/cancel", queue.cancel, methods=["PUT"]),
    Route(_REQUEST, queue.result, methods=["GET"]),
    Route("/queue/{endpoint:path}", queue.submit, methods=["POST"]),
    Route("/run/{endpoint:path}/stream", stream, methods=["POST"]),
    Route("/run/{endpoint:path}", run, methods=["POST"]),
    WebSocketRoute("/run/{endpoint:path}", realtime),
    WebSocketRoute("/ws/{endpoint:path}", over_websocket),
    WebSocketRoute(f"{_REQUEST}/status/stream", status_socket),
    Route("/rest/tokens", create_token, methods=["POST"]),
    *storage.ROUTES,
    *proxy.ROUTES,
    Route("/api/openapi/queue/openapi.json", queue_document, methods=["GET"]),
    Route(catalog.PATH, catalog.list_models, methods=["GET"]),
    Route(pricing.PATH, pricing.pricing, methods=["GET"]),
    Route(f"{pricing.PATH}/estimate", pricing.estimate, methods=["POST"]),
]
