"""Writes down when keys were last used: now and then, and all of them at once."""

from __future__ import annotations

import asyncio

from quickthaw.scheduler.keys import KeyRing
from quickthaw.scheduler.store.journal import Journal
from quickthaw.scheduler.store.keys import used_key_rows

FLUSH_SECONDS = 30.0


async def note_uses(keys: KeyRing, journal: Journal) -> None:
    """Never returns. What was used since the last time is lost by a crash, and nothing else is."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        if not journal.faulty and (rows := used_key_rows(keys.take_used())):
            journal.keep(rows)
