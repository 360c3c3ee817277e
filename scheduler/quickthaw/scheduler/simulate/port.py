"""What a policy is to the simulation: told of everything, it answers with orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from quickthaw.scheduler.core.model import ModelSpec
from quickthaw.scheduler.simulate.traces import Arrival
from quickthaw.scheduler.simulate.world import Attempt, Change, VirtualWorker


class Assign(NamedTuple):
    worker: VirtualWorker
    attempt: Attempt


class Stop(NamedTuple):
    """Ends an attempt early; the policy hears `stopped` unless it has just ended by itself."""

    worker: VirtualWorker
    key: str


class Refuse(NamedTuple):
    """The request ends without a result, its deadline being past, say."""

    key: str


Order: TypeAlias = Assign | Stop | Refuse


class Policy(Protocol):
    """Told of everything; answers with what to hand to which worker."""

    def arrived(self, key: str, arrival: Arrival, model: ModelSpec, now: float) -> None: ...

    def began_load(self, worker: VirtualWorker, attempt: Attempt, now: float) -> None: ...

    def began_run(self, worker: VirtualWorker, attempt: Attempt, now: float) -> None: ...

    def ended(
        self, worker: VirtualWorker, attempt: Attempt, run_seconds: float, now: float
    ) -> None: ...

    def stopped(
        self, worker: VirtualWorker, attempt: Attempt, run_seconds: float, now: float
    ) -> None: ...

    def changed(self, worker: VirtualWorker, change: Change, now: float) -> None: ...

    def left(self, worker: VirtualWorker, lost: Sequence[Attempt], now: float) -> None: ...

    def came(self, worker: VirtualWorker, now: float) -> None: ...

    def tick(self, now: float) -> None: ...

    def next_tick(self) -> float | None: ...

    def orders(self) -> Sequence[Order]:
        """What was decided since the last call."""
        ...
