"""The processes that are measured, and what passes between them and the one that measures.

Every loader has a process of its own for the whole run, so imports, thread pools and pinned
buffers are as in a long-lived worker, nobody's memory or threads are in another's way, and one that
crashes or hangs takes nobody along. What a loader prints goes to its log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from quickthaw.cli.bench.peers.base import Peer
from quickthaw.cli.bench.rows import From
from quickthaw.cli.bench.subject import Subject


@dataclass(frozen=True, slots=True)
class Settings:
    """What a lane needs to know. Crosses to its process."""

    lane: str
    subject: Subject
    device: str
    readers: int
    touch_threads: int
    torch_threads: int
    url: str
    """Of the web server that has the store and the subject's folder; empty if there is none."""
    log: Path
    peer: Peer | None
    """Set for the lanes of peers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `phases`: our own report's seconds by name; `how`: the I/O path, where it is known.

    `cpu_seconds` are those of the whole process, all threads.
    """

    seconds: float
    cpu_seconds: float
    phases: dict[str, float] = field(default_factory=dict[str, float])
    how: str = ""


class Lane(Protocol):
    """A loader in its own process."""

    def prepare(self, start: From) -> None:
        """Puts what it holds in memory into the state that the row starts from. Not timed."""
        ...

    def run(self, start: From, *, verify: bool) -> Outcome:
        """Loads, and times it."""
        ...

    def wrong(self) -> list[str]:
        """What differs from the expected tensors in what `run` has loaded."""
        ...

    def clear(self) -> None:
        """Gives back what `run` has loaded."""
        ...


@dataclass(frozen=True, slots=True)
class Failed:
    """A lane's answer instead of an outcome."""

    reason: str


@dataclass(frozen=True, slots=True)
class Prepare:
    start: From


@dataclass(frozen=True, slots=True)
class Run:
    start: From
    verify: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer to `Prepare`, and said once when a lane has started."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The answer to `Run`: what it took, and what was wrong with it (a few lines at most)."""

    outcome: Outcome
    wrong: tuple[str, ...]


Order = Prepare | Run
Answer = Ready | Ran | Failed
