"""Which of the gateway's surfaces a request is for, by its host name or its path's prefix.

fal's clients tell the surfaces apart by host name; everyone else reaches them under a prefix.
Routing knows prefixes only, so that a host name is translated into one here.
"""

from __future__ import annotations

from typing import Final

RESERVED: Final = frozenset(
    {
        *("queue", "run", "rest", "cdn", "files", "api", ".well-known", "replicate", "openai"),
        *("health", "docs", "metrics", "ws", "v1", "admin", "openapi.json", "ca.pem"),
    }
)
"""First segments of a path that are no model's owner."""

_EXACT_HOSTS: Final = {
    "fal.run": "run",
    "falrun.com": "run",
    "fal.media": "cdn",
}
_HOST_PREFIXES: Final = {"queue.": "queue", "rest.": "rest", "ws.": "ws"}


def prefix_of_host(host: str) -> str | None:
    """The prefix that a Host header stands for, or None if the path alone decides."""
    name = host.rpartition(":")[0] if _has_port(host) else host
    name = name.lower().rstrip(".")
    if (exact := _EXACT_HOSTS.get(name)) is not None:
        return exact
    if name.endswith(".fal.media"):
        return "cdn"
    return next((to for start, to in _HOST_PREFIXES.items() if name.startswith(start)), None)


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and not host.endswith("]")


def route_path(host: str, path: str) -> str:
    """The path to route by: always with a known first segment, never with a trailing slash."""
    # `*`, or a whole URL as a proxy is asked for one: no path of ours, but answered like any other.
    trimmed = ("" if path.startswith("/") else "/") + path.rstrip("/") or "/"
    if (prefix := prefix_of_host(host)) is not None:
        return f"/{prefix}{'' if trimmed == '/' else trimmed}"
    first = trimmed.split("/", 2)[1]
    if trimmed == "/" or first in RESERVED:
        return trimmed
    return f"/run{trimmed}"


def surface_of(routed_path: str) -> str:
    """A word of bounded cardinality for logs and metrics."""
    first = routed_path.split("/", 2)[1]
    if not first:
        return "page"
    return first.replace(".json", "").replace(".", "") if first in RESERVED else "other"
