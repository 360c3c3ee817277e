"""Who may run while an earlier attempt is still loading.

A device whose next model is on its way would idle; an attempt whose model is up runs meanwhile. The
one that is overtaken pays for it with the rest of one run at most: nobody overtakes what is loaded,
so whoever began beside its load is the last before it. And an attempt that once found no room is
overtaken no more until it has loaded, for what runs keeps the memory that it waits for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from quickthaw.worker.commands import TakeUp
from quickthaw.worker.held import HeldAttempt

LOOKED_AT_MAX = 16
"""Of those that wait, oldest first."""


class Overtaking:
    """`runs_max`: runs that may begin before an attempt while it loads; 0 keeps the order."""

    def __init__(self, runs_max: int) -> None:
        self._runs_max = runs_max
        self._runs_left = 0  # beside this load
        self._asked: set[str] = set()  # in this load
        self._open = False  # a question that is not answered yet

    def load_lasts(self, loading: HeldAttempt | None) -> None:
        """A load goes on beside whatever runs. None if its attempt is gone."""
        crowded = loading is not None and loading.crowded
        self._runs_left = 0 if crowded else self._runs_max

    def load_is_over(self) -> None:
        """What was not up may be, or is about to be loaded itself."""
        self._runs_left = 0
        self._asked.clear()

    def candidates(
        self, waiting: Iterable[HeldAttempt], running: Collection[str]
    ) -> Iterator[HeldAttempt]:
        """Who may be asked for now, each once in a load and one at a time. `running`: snapshots
        that run."""
        if self._open or not self._runs_left:
            return
        for attempt in islice(waiting, LOOKED_AT_MAX):
            snapshot = attempt.assignment.snapshot_digest
            if attempt.assignment.attempt_id not in self._asked and not (
                snapshot and snapshot in running
            ):
                yield attempt

    def ask(self, attempt: HeldAttempt) -> TakeUp:
        self._asked.add(attempt.assignment.attempt_id)
        self._open = True
        return TakeUp(attempt.assignment)

    def answered(self, *, taken: bool) -> None:
        """The question is; `taken`: the attempt's model is in use by it now."""
        self._open = False
        self._runs_left -= taken
