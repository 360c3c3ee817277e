"""When a webhook is tried again, and when it is given up. Pure: time and chance are arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from random import Random

RETRY_DELAYS_SECONDS = (10, 30, 60, 120, 300, 600, 900, 1500, 1800, 1800)
"""Ten retries within two hours of the first attempt."""

ATTEMPTS_MAX = 1 + len(RETRY_DELAYS_SECONDS)
JITTER = 0.1
"""How much shorter a delay may become: a receiver that was down shall not be met by all at once."""

HISTORY_MAX = 20
ERROR_CHARS_MAX = 300


class WebhookState(Enum):
    WAITING = "waiting"
    DUE = "due"
    DELIVERED = "delivered"
    FAILED = "failed"


class Dialect(Enum):
    FAL = "fal"
    REPLICATE = "replicate"


@dataclass(frozen=True, slots=True)
class Target:
    """What a submission says about its webhook."""

    url: str
    dialect: Dialect
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. `status` is 0 if there was no answer; `error` is empty if it succeeded."""

    unix_ms: int
    status: int
    error: str
    spent_ms: int


@dataclass(frozen=True, slots=True)
class Webhook:
    """`attempts` counts claims since it became due; the lease is a gateway's, empty for none."""

    request_id: str
    tenant: str
    target: Target
    state: WebhookState
    created_ms: int
    attempts: int = 0
    due_ms: int = 0
    lease_id: str = field(default="", repr=False)
    lease_until_ms: int = 0
    history: tuple[Attempt, ...] = ()


def claimed(webhook: Webhook, lease_id: str, until_ms: int) -> Webhook:
    return replace(
        webhook, attempts=webhook.attempts + 1, lease_id=lease_id, lease_until_ms=until_ms
    )


def settled(
    webhook: Webhook, attempt: Attempt, *, delivered: bool, permanent: bool, chance: Random
) -> Webhook:
    """After a report: delivered, given up, or due again later."""
    state, due_ms = WebhookState.DUE, webhook.due_ms
    if delivered:
        state = WebhookState.DELIVERED
    elif permanent or webhook.attempts >= ATTEMPTS_MAX:
        state = WebhookState.FAILED
    else:
        seconds = RETRY_DELAYS_SECONDS[max(1, webhook.attempts) - 1]
        due_ms = attempt.unix_ms + int(1000 * seconds * (1 - JITTER * chance.random()))
    return replace(
        webhook,
        state=state,
        due_ms=due_ms,
        lease_id="",
        lease_until_ms=0,
        history=(*webhook.history, attempt)[-HISTORY_MAX:],
    )


def abandoned(webhook: Webhook, now_ms: int) -> Webhook:
    """Its last lease ran out without a word, and there are no tries left."""
    lost = Attempt(now_ms, 0, "the gateway that delivered it was lost", 0)
    return replace(
        webhook,
        state=WebhookState.FAILED,
        lease_id="",
        lease_until_ms=0,
        history=(*webhook.history, lost)[-HISTORY_MAX:],
    )


def revived(webhook: Webhook, now_ms: int) -> Webhook:
    """Due again with all its tries; what happened before stays in its history."""
    return replace(webhook, state=WebhookState.DUE, attempts=0, due_ms=now_ms)


def history_to_json(history: Sequence[Attempt]) -> str:
    return json.dumps([asdict(each) for each in history])


def history_from_json(text: str) -> tuple[Attempt, ...]:
    return tuple(Attempt(**each) for each in json.loads(text))
