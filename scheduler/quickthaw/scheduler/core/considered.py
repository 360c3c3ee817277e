"""Who was looked at for a decision, kept as it was found and said in full when somebody asks.

A dozen workers are looked at for each of thousands of decisions a second, and few of the decisions
are ever explained. So placement leaves plain tuples here, and the records that people read are made
of them on demand.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TypeAlias

from quickthaw.scheduler.core.decisions import Candidate, Refusal
from quickthaw.scheduler.core.model import Digest, Tier, WorkerId

Refused: TypeAlias = tuple[WorkerId, str, str, tuple[object, ...]]
"""The worker, the reason's word, and the detail as a format with what goes into it."""

Terms: TypeAlias = tuple[float, float, float, float, Tier, float, tuple[Digest, ...]]
"""Seconds to run, what a second costs in the caller's, seconds to wait and to load, the farthest
tier, seconds to load again what leaves, and what leaves."""

Scored: TypeAlias = tuple[float, int, int, WorkerId, Terms]
"""A candidate: its score, missing bytes, attempts held, its id, of which the order follows; then
the terms of the score, which are never compared, as ids differ."""


class Considered:
    """The candidates of one decision and those that were refused."""

    __slots__ = ("_load_weight", "_refused", "_scored")

    def __init__(
        self, scored: list[Scored], refused: list[Refused], load_weight: float = 0.0
    ) -> None:
        """Takes both lists over; `load_weight` is the policy's."""
        self._scored = scored
        self._refused = refused
        self._load_weight = load_weight

    @property
    def candidates_count(self) -> int:
        return len(self._scored)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Best first."""
        return tuple([self.candidate(scored) for scored in sorted(self._scored)])

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """In the order in which they were looked at."""
        return tuple(
            [Refusal(who, why, detail.format(*args)) for who, why, detail, args in self._refused]
        )

    def refused_for(self, reasons: Container[str]) -> list[WorkerId]:
        """Those that were refused for one of these reasons."""
        return [
            worker_id for worker_id, reason, _detail, _args in self._refused if reason in reasons
        ]

    def candidate(self, scored: Scored) -> Candidate:
        """What people read of it."""
        score_seconds, _missing, _held, worker_id, terms = scored
        run_seconds, second_costs, wait_seconds, load_seconds, tier, reload_seconds, evict = terms
        return Candidate(
            worker_id,
            score_seconds,
            wait_seconds,
            load_seconds,
            run_seconds,
            self._load_weight * load_seconds,
            second_costs * (load_seconds + run_seconds),
            reload_seconds,
            tier,
            evict,
        )


def of_one_refusal(worker_id: WorkerId, reason: str, detail: str) -> Considered:
    """No worker was looked at, for this reason."""
    return Considered([], [(worker_id, reason, "{}", (detail,))])


def tie_break(best: Scored, scored: list[Scored]) -> str:
    """By what the best of equals won; empty if it has none."""
    equals = [each for each in scored if each[0] == best[0] and each is not best]
    if not equals:
        return ""
    if all(each[1] > best[1] for each in equals):
        return "more of the model resident"
    if all(each[:3] != best[:3] for each in equals):
        return "fewer attempts held"
    return "worker id"
