"""Whether the process lives, and whether sending it requests makes sense."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.respond import json_response


async def live(request: Request) -> Response:
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """503 while the scheduler's own health service does not say SERVING, and while draining."""
    gateway = gateway_of(request)
    if gateway.draining:
        return json_response({"status": "draining"}, 503)
    if not await gateway.platform.ready():
        return json_response({"status": "unavailable", "scheduler": "not serving"}, 503)
    return json_response({"status": "ok", "scheduler": "serving"})


ROUTES = [
    Route("/health", live, methods=["GET"]),
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
]
