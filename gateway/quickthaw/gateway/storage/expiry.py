"""What is to be deleted when: a marker per object and date, and the sweeper that acts on them.

Markers lie at `expiry/<day>/<minute>/<kind>-<id>` (both since 1970), so that a sweep looks only at
days that have begun and never at what lives. A marker says `look at this now`, not `delete this`:
whoever it is about decides from the object as it is then. That makes sweeps by several gateways at
once harmless, as is one that was interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from quickthaw.gateway.storage.blobs import Blobs
from quickthaw.wire.errors import QuickthawError

logger = logging.getLogger(__name__)

Judge = Callable[[str, float], Awaitable["float | None"]]
"""Given the id of a marker and the time: deletes what is due. When to look again, if ever."""

_ROOT = "expiry"
_MINUTE = 60
_DAY_MINUTES = 24 * 60
_SWEPT_AT_ONCE = 16


class Expiry:
    def __init__(self, blobs: Blobs, now: Callable[[], float] = time.time) -> None:
        self._blobs = blobs
        self._now = now
        self._judges: dict[str, Judge] = {}

    def judge(self, kind: str, judge: Judge) -> None:
        """`kind` is one word without `-`."""
        self._judges[kind] = judge

    async def mark(self, kind: str, name: str, at_seconds: float) -> None:
        """`name`: letters, digits, `-` and `_`. Written before what it is about."""
        minute = math.ceil(at_seconds / _MINUTE)
        # Of two marks for the same minute each may be acted on and deleted by itself.
        key = f"{_marks(minute)}{kind}-{name}.{secrets.token_hex(4)}"
        await self._blobs.write(key, b"")

    async def sweep(self) -> int:
        """How many markers were acted on. Raises the errors of the blob store."""
        now = self._now()
        minute = int(now // _MINUTE)
        due = [
            blob.key
            for day in await self._blobs.folders(_ROOT)
            if int(day) <= minute // _DAY_MINUTES
            for at in await self._blobs.folders(f"{_ROOT}/{day}")
            if int(at) <= minute
            async for blob in self._blobs.under(f"{_ROOT}/{day}/{at}/")
        ]
        slots = asyncio.Semaphore(_SWEPT_AT_ONCE)

        async def act(key: str) -> None:
            async with slots:
                await self._act(key, now)

        async with asyncio.TaskGroup() as group:
            for key in due:
                group.create_task(act(key))
        return len(due)

    async def _act(self, key: str, now: float) -> None:
        kind, _, name = key.rpartition("/")[2].rpartition(".")[0].partition("-")
        judge = self._judges.get(kind)
        if judge is None:
            return  # A newer gateway's: it will see to it.
        again = await judge(name, now)
        if again is not None:
            await self.mark(kind, name, again)
        await self._blobs.delete([key])


def _marks(minute: int) -> str:
    return f"{_ROOT}/{minute // _DAY_MINUTES:06d}/{minute:09d}/"


@contextlib.asynccontextmanager
async def sweeping(expiry: Expiry, every_seconds: float) -> AsyncIterator[None]:
    """Sweeps now and then for as long as the context is open."""
    task = asyncio.create_task(_sweep_for_ever(expiry, every_seconds))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _sweep_for_ever(expiry: Expiry, every_seconds: float) -> None:
    while True:
        try:
            await expiry.sweep()
        except* QuickthawError as group:
            logger.warning("expired files could not be swept: %s", group.exceptions[0])
        except* Exception:
            # Something in the store that is not ours, or a bug: the next sweep comes all the same.
            logger.exception("sweeping expired files")
        await asyncio.sleep(every_seconds)
