"""How often, how long and with which pauses the client tries again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from google.protobuf.message import Message

from quickthaw.client.methods import Method
from quickthaw.client.steps import Operation, ResponseT, Sleep, call
from quickthaw.wire.errors import QuickthawError, Unavailable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds for trying again. `attempts_max=1` never does."""

    attempts_max: int = 8
    pause_seconds: float = 0.1
    """The mean first pause is half of this; it doubles with every failure."""
    pause_seconds_max: float = 5.0
    total_seconds: float = 60.0
    """No pause begins that would end later than this after the first failure."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every operation needs. Time and chance come in here."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    call_timeout_seconds: float = 30.0
    """For one call that answers once."""
    artifact_timeout_seconds: float = 600.0
    """For all bytes of one artifact."""
    cancel_timeout_seconds: float = 3.0
    """For taking back a request on the way out of an interrupted `run`."""
    monotonic: Callable[[], float] = time.monotonic
    unix_seconds: Callable[[], float] = time.time
    random: random.Random = field(default_factory=random.Random)
    new_key: Callable[[], str] = field(default=lambda: uuid4().hex)
    """Makes an idempotency key. Unique in the tenant for ever, so not from `random`."""


def can_retry(error: QuickthawError) -> bool:
    """Whether an identical call may succeed later: nobody answered, or the server says when."""
    return isinstance(error, Unavailable) or error.retry_delay_seconds is not None


class Patience:
    """What is left of a policy in one operation. `reset` after progress."""

    def __init__(self, context: Context) -> None:
        self._policy = context.retry
        self._monotonic = context.monotonic
        self._random = context.random
        self.reset()

    def reset(self) -> None:
        self._failures = 0
        self._since: float | None = None

    def pause_after(self, error: QuickthawError) -> Operation[None]:
        """Waits as the policy and the server's RetryInfo ask; raises `error` if patience is out.

        Pauses have full jitter (uniform below an exponential bound), so that the callers of a
        server that came back do not all arrive at once.
        """
        now = self._monotonic()
        if self._since is None:
            self._since = now
        self._failures += 1
        bound = min(
            self._policy.pause_seconds_max,
            self._policy.pause_seconds * 2.0 ** min(self._failures - 1, 32),
        )
        pause = self._random.uniform(0.0, bound) + (error.retry_delay_seconds or 0.0)
        late = now + pause - self._since > self._policy.total_seconds
        if not can_retry(error) or self._failures >= self._policy.attempts_max or late:
            raise error
        yield Sleep(pause)


def call_with_retry(
    context: Context,
    method: Method[Message, ResponseT],
    message: Message,
) -> Operation[ResponseT]:
    """One RPC; tried again, if it is repeatable, within the policy."""
    patience = Patience(context)
    while True:
        try:
            return (yield from call(method, message, context.call_timeout_seconds))
        except QuickthawError as error:
            if not method.repeatable:
                raise
            yield from patience.pause_after(error)
