"""What a process costs: its processor time by thread, as the kernel counts it.

Wall time on a busy machine says little; processor time says what a request takes, whoever else
runs. It still grows with a neighbour on the same core's other thread, by up to a half.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_NANOSECONDS = 1e9


def children(process_id: int) -> list[int]:
    """Of all generations."""
    found: list[int] = []
    for task in Path(f"/proc/{process_id}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def thread_seconds(process_id: int, *, with_children: bool = False) -> Mapping[str, float]:
    """By thread: `<process>/<thread>`; the main thread's number is its process's."""
    spent: dict[str, float] = {}
    for each in (process_id, *(children(process_id) if with_children else ())):
        for thread in os.listdir(f"/proc/{each}/task"):
            try:
                text = Path(f"/proc/{each}/task/{thread}/schedstat").read_text()
            except OSError:
                continue  # it ended just now
            spent[f"{each}/{thread}"] = int(text.split()[0]) / _NANOSECONDS
    return spent


def spent_between(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float]:
    """Seconds of all threads together, and of the one that took most."""
    each = [seconds - before.get(thread, 0.0) for thread, seconds in after.items()]
    return sum(each), max(each, default=0.0)
