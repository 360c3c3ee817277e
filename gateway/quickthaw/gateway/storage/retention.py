"""Made files that end when their caller said, or soon after they were delivered.

Workers write what they made to `artifacts/<request id>/` and know nothing of callers' wishes. A
marker is left when a request is accepted; what it finds then decides, since a request may wait
longer than its files are to live.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from quickthaw.gateway.storage.blobs import Blobs
from quickthaw.gateway.storage.expiry import Expiry

KIND: Final = "artifacts"
WAIT_SECONDS_MAX: Final = 14 * 24 * 3600.0
"""How long a request may take until nobody looks for its files any more."""
_LOOK_AGAIN_SECONDS: Final = 3600.0
_NAME: Final = re.compile(r"(\d{1,12})-(\d{1,12})-([A-Za-z0-9_.-]{1,128})")


@dataclass(slots=True)
class Retention:
    blobs: Blobs
    expiry: Expiry
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.expiry.judge(KIND, self._judge)

    async def keep_for(self, request_id: str, seconds: float) -> None:
        """From when each file was written. Raises the errors of the blob store."""
        now = self.now()
        whole = max(1, round(seconds))
        name = f"{whole}-{round(now + whole + WAIT_SECONDS_MAX)}-{request_id}"
        await self.expiry.mark(KIND, name, now + whole)

    async def _judge(self, name: str, now: float) -> float | None:
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        seconds, give_up = int(found[1]), int(found[2])
        ends: list[float] = []
        due: list[str] = []
        async for blob in self.blobs.under(f"artifacts/{found[3]}/"):
            end = blob.modified_seconds + seconds
            if end <= now:
                due.append(blob.key)
            else:
                ends.append(end)
        await self.blobs.delete(due)
        if ends:
            return min(ends)
        # Nothing there: it is still waiting, or it made nothing.
        return None if due or now >= give_up else now + max(_LOOK_AGAIN_SECONDS, seconds)
