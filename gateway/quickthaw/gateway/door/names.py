"""The names that clients insist on, and that are therefore answered for here."""

from __future__ import annotations

import ipaddress
from typing import Final

CONNECT_NAMES: Final = frozenset(
    {
        *("fal.run", "queue.fal.run", "ws.fal.run", "rest.fal.ai", "rest.alpha.fal.ai"),
        *("falrun.com", "queue.falrun.com", "fal.media", "v3.fal.media"),
        *("api.fal.ai", "fal.ai"),  # What there is to call, and each endpoint's document.
    }
)
"""Where a CONNECT may lead: here, always. Any other name is refused; this is no proxy."""

PERMITTED_DOMAINS: Final = ("fal.run", "fal.ai", "fal.media", "falrun.com", "localhost")
"""What the local authority may vouch for at all, subdomains included: its key is of no use to
impersonate anything else."""

PERMITTED_NETWORKS: Final = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)

DEFAULT_NAME: Final = "localhost"
"""Of a client that names nobody, because it connects to an address."""


def permitted(name: str) -> bool:
    """Whether the local authority's constraints allow a certificate for this name."""
    name = name.lower().rstrip(".")
    return any(name == domain or name.endswith(f".{domain}") for domain in PERMITTED_DOMAINS)
