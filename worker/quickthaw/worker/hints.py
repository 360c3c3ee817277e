"""What the scheduler would like to have where: neither is promised, nor is anybody told but by what
becomes resident."""

from __future__ import annotations

import logging

from quickthaw.v1 import fleet_pb2
from quickthaw.worker import convert
from quickthaw.worker.ports import Engine
from quickthaw.worker.prefetching import Prefetcher
from quickthaw.worker.shell import Shell

logger = logging.getLogger(__name__)


class Hints:
    """Takes them on the event loop."""

    def __init__(self, shell: Shell, engine: Engine, prefetcher: Prefetcher) -> None:
        self._shell = shell
        self._engine = engine
        self._prefetcher = prefetcher

    def assigned(self, snapshot_digest: str) -> None:
        """An attempt for this snapshot comes before all hints."""
        self._prefetcher.give_way(snapshot_digest)

    def unload(self, message: fleet_pb2.Unload) -> None:
        try:
            tier = convert.tier_from(message.tier)
        except ValueError:
            logger.warning("ignored Unload from the unknown tier %d", message.tier)
            return
        self._shell.unload(tuple(message.digests), tier, self._engine)

    def prefetch(self, message: fleet_pb2.Prefetch) -> None:
        if (prefetch := convert.prefetch_from(message)) is not None:
            self._prefetcher.ask(prefetch)
