"""All routes of the gateway behind its front."""

from __future__ import annotations

from starlette.routing import Router

from quickthaw.gateway import fal, files, health, openai, openapi, pages
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.front import Front


def build_app(gateway: Gateway) -> Front:
    routes = [
        *(*pages.ROUTES, *health.ROUTES, *openapi.ROUTES, *files.ROUTES),
        *(*fal.ROUTES, *openai.ROUTES),
    ]
    dialects = {"openai": openai.error_response}
    # A redirect is an error for half of the clients; the front has taken the slash off already.
    return Front(Router(routes, redirect_slashes=False), gateway, dialects)
