"""When a part that died is started again, and when not any more. Pure: time comes in."""

from __future__ import annotations

from collections import deque

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.up.settings import RestartPolicy


class Restarts:
    """The record of one part's deaths."""

    def __init__(self, name: str, policy: RestartPolicy) -> None:
        self._name = name
        self._policy = policy
        self._failed_starts = 0
        self._deaths: deque[float] = deque()

    def pause_seconds(self, now: float, was_ready: bool, last_lines: tuple[str, ...]) -> float:
        """How long to wait before the next start, after a death at `now`.

        A part that gets ready and is then killed comes back at once; one that cannot start backs
        off and is given up. Raises PartFailed then.
        """
        policy = self._policy
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        self._deaths.append(now)
        while self._deaths[0] < now - policy.restarts_window_seconds:
            self._deaths.popleft()
        if self._failed_starts >= policy.failed_starts_max:
            raise PartFailed(
                f"the {self._name} failed to start {self._failed_starts} times in a row; giving up",
                last_lines,
            )
        if len(self._deaths) > policy.restarts_max:
            raise PartFailed(
                f"the {self._name} died {len(self._deaths)} times within "
                f"{policy.restarts_window_seconds:g} s; giving up",
                last_lines,
            )
        return min(policy.pause_seconds_max, policy.pause_seconds * 2.0**self._failed_starts)
