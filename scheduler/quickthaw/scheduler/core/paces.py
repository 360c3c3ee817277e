"""How fast GPU types are against each other, learned from models that ran on more than one.

A model that has run on one type only is expected to run on another as much slower or faster as
other models did. Without that, a slow and cheap type on which a model never ran looks as fast as
the dear one on which it did, and the longest runs go there first.

The log of a run's unit time is taken as a model's part plus a GPU type's part (an additive model,
as in analysis of variance); each run of a model on another type than its last one corrects both
types by half of what it was off.
"""

from __future__ import annotations

import math
from collections import OrderedDict

WEIGHT_LEAST = 0.02
"""Of one comparison, once there were many: the pace of a type does not change by the hour."""


class GpuPaces:
    """Bounded by `types_max`; the types compared least recently are forgotten first."""

    def __init__(self, types_max: int) -> None:
        self._types_max = types_max
        self._logs: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def pace(self, gpu_type: str) -> float:
        """How long a unit of work takes there, against no type in particular: only ratios mean
        anything. 1 for a type that nothing is known of."""
        known = self._logs.get(gpu_type)
        return 1.0 if known is None else math.exp(known[0])

    def compared(self, gpu_type: str, before: str, ratio: float) -> None:
        """A model took `ratio` times as long on `gpu_type` as was to be expected from its run on
        `before`; more than 0."""
        if gpu_type == before:
            return
        off = math.log(ratio)
        self._correct(gpu_type, off / 2)
        self._correct(before, -off / 2)

    def _correct(self, gpu_type: str, off: float) -> None:
        value, count = self._logs.pop(gpu_type, (0.0, 0))
        weight = max(WEIGHT_LEAST, 1.0 / (1 + count / 2))
        self._logs[gpu_type] = (value + weight * off, count + 1)
        if len(self._logs) > self._types_max:
            self._logs.popitem(last=False)
