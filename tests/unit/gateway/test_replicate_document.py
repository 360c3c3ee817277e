from __future__ import annotations

from starlette.routing import Route

from quickthaw.gateway import bringing, deployments, fal, replicate, webhooks
from quickthaw.gateway.openapi import gateway_document


def of_these(path: str) -> bool:
    return path.startswith(("/replicate", "/v1")) or "well-known" in path


def test_every_route_of_replicate_webhooks_and_deployments_is_documented_and_none_else() -> None:
    paths = gateway_document("http://gw")["paths"]
    assert isinstance(paths, dict)
    documented = {
        (path, method.upper())
        for path, item in paths.items()
        for method in (item if isinstance(item, dict) else {})
        if of_these(path)
    }
    routed = {
        (route.path, method)
        for route in (
            *(*replicate.ROUTES, *webhooks.ROUTES),
            *(*bringing.ROUTES, *deployments.ROUTES, *fal.ROUTES),
        )
        if isinstance(route, Route) and of_these(route.path)
        for method in route.methods or ()
    }
    # OpenAPI 3.1 has no word for QUERY, and HEAD is a GET without its body.
    known = {(path, method) for path, method in routed if method not in ("QUERY", "HEAD")}
    assert documented == known
