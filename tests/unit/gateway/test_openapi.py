from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from starlette.routing import BaseRoute, Match, Route

from quickthaw.gateway import bringing, deployments, fal, files, health, openai, replicate, webhooks
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.openapi import gateway_document

EVERY_ROUTE: Sequence[BaseRoute] = [
    *(*health.ROUTES, *files.ROUTES, *fal.ROUTES, *webhooks.ROUTES, *replicate.ROUTES),
    *openai.ROUTES,
    *deployments.ROUTES,
    *bringing.ROUTES,
]
# OpenAPI 3.1 has no words for WebSockets and for the method QUERY.
ROUTES = [
    route
    for route in EVERY_ROUTE
    if isinstance(route, Route) and "QUERY" not in (route.methods or ())
]


def route_of(method: str, path: str) -> Route | None:
    scope = {
        "type": "http",
        "method": method.upper(),
        "path": path.replace("{number}", "1").replace("{", "").replace("}", ""),
    }
    matches = (route for route in ROUTES if route.matches(scope)[0] is Match.FULL)
    return next(matches, None)


def test_every_documented_operation_is_routed_and_every_route_is_documented() -> None:
    paths = cast("dict[str, JsonObject]", gateway_document("http://gw")["paths"])
    routed = {
        (method, path): route_of(method, path) for path, item in paths.items() for method in item
    }
    assert [operation for operation, route in routed.items() if route is None] == []
    assert {id(route) for route in routed.values()} == {id(route) for route in ROUTES}


def test_every_operation_stands_under_one_of_the_headings() -> None:
    document = cast("dict[str, list[dict[str, str]]]", gateway_document("http://gw"))
    paths = cast("dict[str, dict[str, dict[str, list[str]]]]", document["paths"])
    used = [operation["tags"] for item in paths.values() for operation in item.values()]
    assert {len(tags) for tags in used} == {1}
    assert {tags[0] for tags in used} == {tag["name"] for tag in document["tags"]}


def test_what_needs_no_key_says_so() -> None:
    paths = cast("dict[str, dict[str, JsonObject]]", gateway_document("http://gw")["paths"])
    open_to_all = {
        path for path, item in paths.items() if item.get("get", {}).get("security") == []
    }
    assert open_to_all == {
        "/.well-known/jwks.json",
        "/rest/.well-known/jwks.json",
        "/v1/files/stream-{seal}",
        *("/files/{file_id}", "/files/{file_id}/{name}", "/files/{signature}/{request_id}/{name}"),
        *("/cdn/files/{file_id}", "/cdn/files/{file_id}/{name}"),
        "/cdn/files/{signature}/{request_id}/{name}",
        "/health",
        "/health/live",
        "/health/ready",
    }
