from __future__ import annotations

import pytest

from quickthaw.gateway.surfaces import prefix_of_host, route_path, surface_of


@pytest.mark.parametrize(
    ("host", "prefix"),
    [
        ("fal.run", "run"),
        ("FAL.run:443", "run"),
        ("falrun.com", "run"),
        ("queue.fal.run", "queue"),
        ("queue.falrun.com.", "queue"),
        ("rest.fal.ai", "rest"),
        ("ws.fal.run", "ws"),
        ("v3.fal.media", "cdn"),
        ("127.0.0.1:8080", None),
        ("[::1]:8080", None),
        ("[::1]", None),
        ("localhost", None),
        ("notfal.media", None),
        ("", None),
    ],
)
def test_a_host_name_stands_for_a_surface(host: str, prefix: str | None) -> None:
    assert prefix_of_host(host) == prefix


@pytest.mark.parametrize(
    ("host", "path", "routed"),
    [
        ("localhost", "/run/a/b", "/run/a/b"),
        ("localhost", "/queue/a/b/", "/queue/a/b"),
        ("localhost", "/a/b", "/run/a/b"),
        ("localhost", "/a/b/stream/", "/run/a/b/stream"),
        ("localhost", "/", "/"),
        ("localhost", "//", "/"),
        ("localhost", "*", "/run/*"),
        ("localhost", "http://h/a", "/run/http://h/a"),
        ("localhost", "", "/"),
        ("queue.fal.run", "/a/b", "/queue/a/b"),
        ("fal.run", "/a/b", "/run/a/b"),
        ("fal.run", "/queue/b", "/run/queue/b"),
        ("queue.fal.run", "/", "/queue"),
    ],
)
def test_every_path_is_routed_by_a_known_prefix(host: str, path: str, routed: str) -> None:
    assert route_path(host, path) == routed


def test_surfaces_of_unknown_paths_share_one_word() -> None:
    assert surface_of(route_path("localhost", "/a/b")) == "run"
    assert surface_of("/somewhere/else") == "other"
    assert surface_of("/") == "page"
