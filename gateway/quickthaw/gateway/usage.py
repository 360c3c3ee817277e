"""What a caller's tenant ran of late, from the ledger."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from quickthaw.gateway.platform import Credential, Platform
from quickthaw.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    # The generated stubs' types know the asyncio channel under another name.
    from quickthaw.v1.billing_pb2_grpc import BillingAsyncStub

PAST_DAYS = 30
BELIEVED_SECONDS = 60.0
"""Adding it up takes the store some time for who runs much."""
CALLERS_MAX = 1024

_DAY_MS = 24 * 3_600_000


class PastUsage:
    """Belongs to the event loop."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._known: OrderedDict[Credential, tuple[float, Mapping[str, billing_pb2.UsageLine]]] = (
            OrderedDict()
        )

    async def by_model(self, credential: Credential) -> Mapping[str, billing_pb2.UsageLine]:
        """Of the past `PAST_DAYS`, at most a minute old. Raises the errors of the platform."""
        known = self._known.get(credential)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        stub: BillingAsyncStub = billing_pb2_grpc.BillingStub(self._platform.channel)
        answer: billing_pb2.GetUsageResponse = await self._platform.call(
            credential,
            stub.GetUsage,
            billing_pb2.GetUsageRequest(
                from_unix_ms=int(time.time() * 1000) - PAST_DAYS * _DAY_MS,
                by=[billing_pb2.USAGE_DIMENSION_MODEL],
            ),
        )
        lines = {line.model: line for line in answer.lines}
        self._known[credential] = (time.monotonic() + BELIEVED_SECONDS, lines)
        self._known.move_to_end(credential)
        if len(self._known) > CALLERS_MAX:
            self._known.popitem(last=False)
        return lines
