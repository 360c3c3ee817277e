"""When a process that died is started again, and when not any more. Pure: time comes in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How a process that dies is brought back, and when that is given up."""

    pause_seconds: float = 0.2
    """Before the first restart; doubles with every start that fails."""
    pause_seconds_max: float = 15.0
    failed_starts_max: int = 5
    """Starts in a row that did not get as far as ready."""
    restarts_max: int = 120
    """Restarts within `restarts_window_seconds`, also of one that gets ready every time."""
    restarts_window_seconds: float = 300.0


class CrashLoop(Exception):
    """It died too often to be started once more; the text says how often."""


class Restarts:
    """The record of one process's deaths; `name` as in `the scheduler`."""

    def __init__(self, name: str, policy: RestartPolicy) -> None:
        self._name = name
        self._policy = policy
        self._failed_starts = 0
        self._deaths: deque[float] = deque()

    def pause_seconds(self, now: float, was_ready: bool) -> float:
        """How long to wait before the next start, after a death at `now`.

        What gets ready and is then killed comes back at once; what cannot start backs off and is
        given up. Raises CrashLoop then.
        """
        policy = self._policy
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        self._deaths.append(now)
        while self._deaths[0] < now - policy.restarts_window_seconds:
            self._deaths.popleft()
        if self._failed_starts >= policy.failed_starts_max:
            raise CrashLoop(
                f"{self._name} failed to start {self._failed_starts} times in a row; giving up"
            )
        if len(self._deaths) > policy.restarts_max:
            raise CrashLoop(
                f"{self._name} died {len(self._deaths)} times within "
                f"{policy.restarts_window_seconds:g} s; giving up"
            )
        return min(policy.pause_seconds_max, policy.pause_seconds * 2.0**self._failed_starts)
