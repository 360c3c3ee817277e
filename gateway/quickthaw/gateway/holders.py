"""Whose a body is, for its share of what callers share: a tenant's, or an address's.

A body is counted before its key is looked at, so that a key counts for its tenant only if it has
been good here of late; any other, and none, is somebody at an address. Behind a proxy all of these
are one, which is why those with keys are told apart.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

from starlette.requests import HTTPConnection

from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.platform import Credential, Platform
from quickthaw.wire.errors import QuickthawError, Unauthenticated

KNOWN_SECONDS = 600.0
KNOWN_MAX = 4096
HOLDER_EXTENSION = "quickthaw.holder"
"""Of a WebSocket's scope: its `tell` is to be told whose the connection is once that is known."""

_NETWORK_BITS = 64
"""Of an IPv6 address, which one customer of a network has all of."""


class Holders:
    """Belongs to the event loop."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._tenants: OrderedDict[Credential, tuple[float, str]] = OrderedDict()

    def of(self, connection: HTTPConnection, credential: Credential | None = None) -> str:
        """`credential`: if it did not come in the header."""
        client = connection.scope.get("client")
        if credential is None:
            try:
                credential = read_credential(connection.headers)
            except Unauthenticated:
                return address_holder(client)
        tenant = self._known(credential)
        return address_holder(client) if tenant is None else f"tenant {tenant}"

    async def learn(self, credential: Credential) -> None:
        """Of a key that was good a moment ago."""
        if not credential or self._known(credential) is not None:
            return
        self._tenants.pop(credential, None)
        try:
            tenant = await self._platform.tenant(credential)
        except QuickthawError:
            return  # The next call asks again.
        self._tenants[credential] = (time.monotonic() + KNOWN_SECONDS, tenant)
        if len(self._tenants) > KNOWN_MAX:
            self._tenants.popitem(last=False)

    def _known(self, credential: Credential) -> str | None:
        until, tenant = self._tenants.get(credential, (0.0, ""))
        return tenant if until > time.monotonic() else None


def address_holder(client: tuple[str, int] | None) -> str:
    if client is None:
        return "address -"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return f"address {client[0]}"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return f"address {ipaddress.ip_network((int(address), _NETWORK_BITS), strict=False)}"
    return f"address {client[0]}"
