"""The rounds: every row once a round, each round in another order, from a state that is checked."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quickthaw.cli.bench import page_cache
from quickthaw.cli.bench.fitting import backed_copies
from quickthaw.cli.bench.lanes import Outcome, Settings
from quickthaw.cli.bench.peers.base import Peer
from quickthaw.cli.bench.processes import LaneFailed, LaneProcess
from quickthaw.cli.bench.rows import From, Row
from quickthaw.cli.bench.subject import Subject
from quickthaw.snapshot.memory import Memory


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run measures, and how often. The first of `rounds + 1` rounds is thrown away.

    `limit_seconds`: of all of it; rounds that would not end by then are left out, but one is
    measured.
    """

    subject: Subject
    device: str
    rows: tuple[Row, ...]
    peers: Mapping[str, Peer]
    rounds: int
    readers: int
    torch_threads: int
    seed: int
    logs: Path
    url: str = ""
    limit_seconds: float | None = None


@dataclass(slots=True)
class Measured:
    """`outcomes`: by row key, one a round. `failed`: why a lane was given up, by lane.

    `rounds`: how many were measured.
    """

    outcomes: dict[str, list[Outcome]] = field(default_factory=dict[str, list[Outcome]])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    rounds: int = 0
    seconds: float = 0.0


OnStep = Callable[[int, int, str], None]
"""Told before each step: how many are done, how many there are, and what comes now."""


def measure(plan: Plan, on_step: OnStep) -> Measured:
    """Raises only for what makes all rows worthless; a lane that fails is left out from then on."""
    began = time.perf_counter()
    measured = Measured({row.key: [] for row in plan.rows})
    lanes: dict[str, LaneProcess] = {}
    names = list(dict.fromkeys(row.lane for row in plan.rows))
    total = len(names) + (plan.rounds + 1) * len(plan.rows)
    try:
        for number, name in enumerate(names):
            on_step(number, total, f"opening {name}")
            lanes[name] = LaneProcess(_settings(plan, name))
            try:
                # One at a time: those that share a form of the model must not write it twice.
                lanes[name].started()
            except LaneFailed as failure:
                measured.failed[name] = str(failure)
        longest = 0.0
        for number in range(plan.rounds + 1):
            round_began = time.perf_counter()
            if not fits(number, round_began - began, longest, plan.limit_seconds):
                break
            rows = list(plan.rows)
            random.Random(plan.seed + number).shuffle(rows)
            for place, row in enumerate(rows):
                done = len(names) + number * len(plan.rows) + place
                what = f"round {number} of {plan.rounds}" if number else "warming up"
                on_step(done, total, f"{what}: {row.title}, {row.start.words}")
                if row.lane not in measured.failed:
                    outcome = _measure_row(plan, row, lanes[row.lane], measured)
                    if number and outcome is not None:
                        measured.outcomes[row.key].append(outcome)
            measured.rounds = number
            longest = max(longest, time.perf_counter() - round_began)
    finally:
        for lane in lanes.values():
            lane.close()
    measured.seconds = time.perf_counter() - began
    return measured


def fits(number: int, elapsed: float, longest: float, limit: float | None) -> bool:
    """Whether round `number` would end in time, after rounds of at most `longest` seconds.

    The warming up, 0, and one measured round always begin.
    """
    return number < 2 or limit is None or elapsed + longest <= limit


def _measure_row(plan: Plan, row: Row, lane: LaneProcess, measured: Measured) -> Outcome | None:
    try:
        lane.prepare(row)
        _set_state(plan, row)
        ran = lane.run(row)
    except LaneFailed as failure:
        measured.failed[row.lane] = str(failure)
        return None
    if ran.wrong:
        measured.failed[row.lane] = f"wrong bytes, from {row.start.words}: {'; '.join(ran.wrong)}"
        return None
    return ran.outcome


def _set_state(plan: Plan, row: Row) -> None:
    peer = plan.peers.get(row.lane)
    files = list(plan.subject.files.values()) if peer is None else peer.files(plan.subject)
    match row.start:
        case From.DISK:
            page_cache.drop(files)
        case From.PAGE_CACHE | From.REMOTE:
            page_cache.warm(files)
        case From.PINNED:
            pass
    # A virtual machine's host takes free memory away and is slow to give it back: every run finds
    # as much as it needs already there, and none pays for what another one left.
    copies = backed_copies(alone=not plan.peers)
    Memory(round(plan.subject.nbytes * copies)).touch(len(os.sched_getaffinity(0)))


def _settings(plan: Plan, lane: str) -> Settings:
    return Settings(
        lane=lane,
        subject=plan.subject,
        device=plan.device,
        readers=plan.readers,
        touch_threads=len(os.sched_getaffinity(0)),
        torch_threads=plan.torch_threads,
        url=plan.url,
        log=plan.logs / f"{lane}.log",
        peer=plan.peers.get(lane),
    )
