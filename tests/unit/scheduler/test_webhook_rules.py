"""When a webhook is tried again."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.webhook_rules import (
    ATTEMPTS_MAX,
    HISTORY_MAX,
    Attempt,
    Dialect,
    Target,
    Webhook,
    WebhookState,
    claimed,
    history_from_json,
    history_to_json,
    revived,
    settled,
)

HOUR_MS = 3_600_000


def a_webhook() -> Webhook:
    target = Target("https://example.org/hook", Dialect.FAL)
    return Webhook("req_1", "alice", target, WebhookState.DUE, created_ms=0)


def failure(at_ms: int) -> Attempt:
    return Attempt(at_ms, 503, "answered 503", 12)


@given(st.integers(0, 2**32))
def test_ten_retries_are_spread_over_at_most_two_hours(seed: int) -> None:
    webhook, now_ms, chance = a_webhook(), 0, Random(seed)
    pauses: list[int] = []
    for _ in range(ATTEMPTS_MAX):
        webhook = claimed(webhook, "lease", now_ms + 1_000)
        webhook = settled(webhook, failure(now_ms), delivered=False, permanent=False, chance=chance)
        if webhook.state is WebhookState.DUE:
            pauses.append(webhook.due_ms - now_ms)
            now_ms = webhook.due_ms
    assert len(pauses) == 10
    assert pauses[0] <= 10_000
    assert 25 * 60_000 <= max(pauses) <= 30 * 60_000
    assert 1.5 * HOUR_MS < now_ms <= 2 * HOUR_MS
    assert webhook.state is WebhookState.FAILED
    assert webhook.attempts == 11


def test_what_may_not_be_called_at_all_is_not_tried_again() -> None:
    webhook = claimed(a_webhook(), "lease", 1)
    after = settled(webhook, failure(5), delivered=False, permanent=True, chance=Random(0))
    assert (after.state, after.lease_id) == (WebhookState.FAILED, "")


def test_a_revived_webhook_has_all_its_tries_and_its_history() -> None:
    webhook = replace(a_webhook(), attempts=ATTEMPTS_MAX, state=WebhookState.FAILED)
    webhook = replace(webhook, history=(failure(1),))
    again = revived(webhook, 77)
    assert (again.state, again.attempts, again.due_ms) == (WebhookState.DUE, 0, 77)
    assert again.history == (failure(1),)


def test_history_is_bounded_and_survives_the_store() -> None:
    webhook = a_webhook()
    for number in range(HISTORY_MAX + 5):
        webhook = settled(
            webhook, failure(number), delivered=True, permanent=False, chance=Random(0)
        )
    assert [each.unix_ms for each in webhook.history] == list(range(5, HISTORY_MAX + 5))
    assert history_from_json(history_to_json(webhook.history)) == webhook.history
