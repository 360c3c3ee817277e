"""`quickthaw webhooks`, against a platform that a test plays."""

from __future__ import annotations

import json

import pytest

from quickthaw.v1 import webhooks_pb2
from quickthaw.wire.errors import FailedPrecondition
from support import answers
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform

HOOK = webhooks_pb2.Webhook(
    request_id=answers.REQUEST_ID,
    tenant="default",
    target=webhooks_pb2.WebhookTarget(
        url="https://example.org/hook?[red]", dialect=webhooks_pb2.WEBHOOK_DIALECT_FAL
    ),
    state=webhooks_pb2.WEBHOOK_STATE_DUE,
    attempts=2,
    due_unix_ms=1_700_000_000_000,
    history=[
        webhooks_pb2.WebhookAttempt(unix_ms=1_699_999_000_000, error="no answer", spent_ms=15_000),
        webhooks_pb2.WebhookAttempt(unix_ms=1_699_999_990_000, status=503, error="answered 503"),
    ],
)


@pytest.fixture(autouse=True)
def scripts(platform: FakePlatform) -> None:
    platform.scripts |= {
        "WebhooksList": lambda _: webhooks_pb2.ListWebhooksResponse(webhooks=[HOOK]),
        "WebhooksGet": lambda _: HOOK,
        "WebhooksRedeliver": lambda _: HOOK,
        "WebhooksRotateSigningKey": lambda _: webhooks_pb2.SigningKey(
            kid="k1", private_key=b"secret"
        ),
        "Get": lambda _: answers.a_request(),
    }


def test_webhooks_are_listed_with_how_they_went(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    told = quickthaw("webhooks", "list", "--state", "due")
    assert told.status == 0
    for word in (answers.REQUEST_ID, "due", "503", "https://example.org/hook?[red]"):
        assert word in told.out
    (asked,) = platform.calls("WebhooksList")
    assert list(asked.states) == [webhooks_pb2.WEBHOOK_STATE_DUE]
    assert json.loads(quickthaw("webhooks", "--json").out)[0]["history"][0]["error"] == "no answer"


def test_one_is_shown_with_its_attempts(quickthaw: Quickthaw) -> None:
    told = quickthaw("webhooks", "show", answers.REQUEST_ID)
    assert "answered 503" in told.out
    assert "no answer" in told.out


def test_a_request_says_who_was_told_of_its_end(quickthaw: Quickthaw) -> None:
    assert "due after 2 tries" in quickthaw("requests", "show", answers.REQUEST_ID).out
    shown = json.loads(quickthaw("requests", "show", answers.REQUEST_ID, "--json").out)
    assert shown["webhook"]["state"] == "due"


def test_a_webhook_is_delivered_again_when_told(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    assert quickthaw("webhooks", "redeliver", answers.REQUEST_ID).status == 0

    def refuse(_: object) -> object:
        raise FailedPrecondition("it is being delivered at this moment")

    platform.scripts["WebhooksRedeliver"] = refuse
    told = quickthaw("webhooks", "redeliver", answers.REQUEST_ID)
    assert told.status == 1
    assert "at this moment" in told.err


def test_a_new_key_is_named_and_not_shown(quickthaw: Quickthaw) -> None:
    told = quickthaw("webhooks", "rotate-key", "--json")
    assert json.loads(told.out) == {"kid": "k1", "created_unix_ms": 0}


def test_an_unknown_state_is_named(quickthaw: Quickthaw) -> None:
    told = quickthaw("webhooks", "list", "--state", "lost")
    assert told.status == 2
    assert "waiting, due, delivered, failed" in told.err
