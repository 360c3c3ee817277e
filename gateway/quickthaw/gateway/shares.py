"""A bounded good that callers share, so that none of them can have it all.

Nobody may have more than a multiple of what nobody has: one that is alone gets half of it at a
multiple of one, two get a third each, and something is always left for whoever comes next. That is
the rule of dynamic thresholds for the queues of a shared buffer (Choudhury and Hahne, IEEE/ACM ToN
1998), which needs to know neither how many there are nor what they will want.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Shares:
    """Belongs to the event loop."""

    total: int
    multiple: float
    _used: int = field(default=0, init=False)
    _held: dict[str, int] = field(default_factory=dict[str, int], init=False)

    def take(self, holder: str, amount: int) -> bool:
        """Whether there was room; then it is to be given back. Who has nothing yet gets what there
        is."""
        held = self._held.get(holder, 0)
        free = self.total - self._used - amount
        if free < 0 or (held and amount > 0 and held + amount > self.multiple * free):
            return False
        self._add(holder, amount)
        return True

    def give_back(self, holder: str, amount: int) -> None:
        self._add(holder, -amount)

    def move(self, giver: str, taker: str, amount: int) -> None:
        """What the one has is the other's, whatever that comes to."""
        self._add(giver, -amount)
        self._add(taker, amount)

    def _add(self, holder: str, amount: int) -> None:
        self._used += amount
        held = self._held.get(holder, 0) + amount
        if held:
            self._held[holder] = held
        else:
            self._held.pop(holder, None)
