from __future__ import annotations

import pytest

from quickthaw.gateway.errors import error_answer, failure_answer
from quickthaw.v1 import types_pb2
from quickthaw.wire.errors import BY_REASON, Unavailable, error_for_reason

RETRIED_BY_SOME_CLIENT = {408, 409, 429, 502, 503, 504}
MAY_PASS_BY_ITSELF = {
    "FAILED_PRECONDITION",
    "MODEL_CANNOT_FIT",
    "ADDRESS_IN_USE",
    "RESOURCE_EXHAUSTED",
    "QUEUE_FULL",
    "STORAGE_FULL",
    "UNAVAILABLE",
    "STORE_UNAVAILABLE",
    # The vendor's own status for it.
    "DEADLINE_EXPIRED",
    # A header says that it was the caller's own limit, which stops both clients.
    "START_TIMEOUT",
}
IN_THE_VENDORS_WORDS = {"START_TIMEOUT": "Request timed out"}


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_every_error_has_an_answer_and_only_passing_ones_are_retried(reason: str) -> None:
    answer = error_answer(error_for_reason(reason, "what went wrong"))
    assert 400 <= answer.status < 600
    assert IN_THE_VENDORS_WORDS.get(reason, "what went wrong") in answer.text
    assert (answer.status in RETRIED_BY_SOME_CLIENT) == (reason in MAY_PASS_BY_ITSELF)
    # Either a list for the model's own failures or a text with a word for programs.
    assert isinstance(answer.detail, str) == (answer.error_type is not None)


def test_a_delay_is_rounded_up_to_whole_seconds() -> None:
    answer = error_answer(Unavailable("away", retry_delay_seconds=1.2))
    assert answer.headers["retry-after"] == "2"


def test_a_failure_says_whether_trying_again_may_help() -> None:
    failure = types_pb2.Failure(reason="ENGINE_FAILED", message="boom", retryable=True)
    answer = failure_answer(failure)
    assert answer.status == 500
    assert answer.headers["x-fal-retryable"] == answer.headers["x-fal-needs-retry"] == "true"


def test_a_failure_of_an_unknown_reason_is_an_internal_error() -> None:
    answer = failure_answer(types_pb2.Failure(reason="FROM_THE_FUTURE", message="?"))
    assert (answer.status, answer.error_type) == (500, "internal_error")
