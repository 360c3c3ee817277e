"""The record of one part's deaths, which ends in what `up` ends with."""

from __future__ import annotations

from quickthaw.cli.errors import PartFailed
from quickthaw.wire import restarts
from quickthaw.wire.restarts import RestartPolicy


class Restarts:
    def __init__(self, name: str, policy: RestartPolicy) -> None:
        self._record = restarts.Restarts(f"the {name}", policy)

    def pause_seconds(self, now: float, was_ready: bool, last_lines: tuple[str, ...]) -> float:
        """As `quickthaw.wire.restarts`; raises PartFailed with the part's last words."""
        try:
            return self._record.pause_seconds(now, was_ready)
        except restarts.CrashLoop as loop:
            raise PartFailed(str(loop), last_lines) from loop
