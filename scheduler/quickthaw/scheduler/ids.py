"""Names that we make: sortable for requests, unguessable for keys."""

from __future__ import annotations

import secrets
from random import Random

# Crockford's base 32 keeps the order of the numbers and leaves out look-alikes.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_TIME_CHARS = 10
_RANDOM_CHARS = 12
_RANDOM_BITS = _RANDOM_CHARS * 5
_PAIR_BITS = 10
_PAIR_MASK = (1 << _PAIR_BITS) - 1
_SHARED_BITS = _RANDOM_BITS - _PAIR_BITS


def _encode(number: int, chars: int) -> str:
    """`chars` is even."""
    text = ""
    for _ in range(chars // 2):
        text = _PAIRS[number & 1023] + text
        number >>= 10
    return text


class RequestIds:
    """The prefix + 10 characters of time + 12 of chance, rising within one process.

    Lists page by id and the queue breaks ties by it, so ids of one millisecond rise too: the
    random part is then counted on instead of drawn again.
    """

    def __init__(self, random: Random | None = None, prefix: str = "req_") -> None:
        self._prefix = prefix
        self._random = random or secrets.SystemRandom()
        self._last = (0, 0)
        self._begins = (-1, "")
        """The parts that ids of one millisecond share: as numbers, and as text."""

    def new(self, now_ms: int) -> str:
        last_ms, last_random = self._last
        if now_ms > last_ms:
            # The top bit stays clear, so that counting on cannot overflow into the time.
            self._last = (now_ms, self._random.getrandbits(_RANDOM_BITS - 1))
        else:
            self._last = (last_ms, last_random + 1)
        moment, chance = self._last
        shared = moment << _SHARED_BITS | chance >> _PAIR_BITS
        if shared != self._begins[0]:
            text = _encode(chance >> _PAIR_BITS, _RANDOM_CHARS - 2)
            self._begins = (shared, f"{self._prefix}{_encode(moment, _TIME_CHARS)}{text}")
        return self._begins[1] + _PAIRS[chance & _PAIR_MASK]


def new_key_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(12))


def new_grant_id() -> str:
    return "grant_" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def new_key_secret(key_id: str) -> str:
    """`qt_<key id>_<secret>`, with 256 bits of chance."""
    return f"qt_{key_id}_{secrets.token_urlsafe(32)}"
