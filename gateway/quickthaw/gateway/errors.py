"""Errors of the platform as answers: a status, a detail, an error type.

The words are fal's, which every route speaks that is in no other dialect; those say them over in
their own (`openai/errors.py`, `replicate/errors.py`).

Statuses that make a client try again by itself (408, 409, 429, 502, 503, 504) are kept for what may
pass by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from quickthaw.gateway.answers import ErrorAnswer, retryable_headers
from quickthaw.gateway.violations import Item, stated_violations, violations_from
from quickthaw.v1 import types_pb2
from quickthaw.wire import errors

CLIENT_CLOSED_REQUEST = 499

# The nearest class up the tree counts.
_REQUEST_ERRORS: Mapping[type[errors.QuickthawError], tuple[int, str]] = {
    errors.InvalidArgument: (400, "bad_request"),
    errors.Unauthenticated: (401, "auth_error"),
    errors.PermissionDenied: (403, "auth_error"),
    errors.NotFound: (404, "not_found"),
    # fal's clients repeat a 409 ten times, and a key reused for another request stays reused.
    errors.AlreadyExists: (400, "bad_request"),
    errors.FailedPrecondition: (503, "runner_scheduling_failure"),
    errors.ResourceExhausted: (429, "queue_full"),
    errors.MessageTooLarge: (413, "bad_request"),
    # Only somebody's money changes it, not time.
    errors.BudgetExhausted: (402, "budget_exhausted"),
    errors.StorageFull: (503, "storage_full"),
    errors.RequestCancelled: (CLIENT_CLOSED_REQUEST, "client_cancelled"),
    errors.Unavailable: (503, "runner_scheduling_failure"),
    errors.SnapshotCorrupt: (500, "internal_error"),
    errors.ArtifactCorrupt: (500, "internal_error"),
    # Trying again would take the next worker down as well.
    errors.AttemptsExhausted: (500, "runner_server_error"),
    errors.PoisonRequest: (500, "runner_server_error"),
    # Until somebody looks at it; no repetition helps.
    errors.ModelQuarantined: (500, "runner_server_error"),
    errors.Internal: (500, "internal_error"),
}

# The model's own failures have a list for a detail and no error type.
_MODEL_ERRORS: Mapping[type[errors.QuickthawError], tuple[int, str]] = {
    errors.EngineFailed: (500, "internal_server_error"),
    errors.DeadlineExpired: (504, "generation_timeout"),
}


def error_answer(error: errors.QuickthawError, violations: list[Item] | None = None) -> ErrorAnswer:
    """`violations`: what our own reading of the schema found, preferred to the error's own list."""
    headers: dict[str, str] = {}
    if error.retry_delay_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_delay_seconds)))
    if isinstance(error, errors.StartTimeout):
        return start_timeout_answer()
    if isinstance(error, errors.InvalidInput):
        items = violations or stated_violations(error.violations)
        return ErrorAnswer(422, items or [_item(error, "value_error")], None, headers)
    for known in type(error).__mro__:
        if (model := _MODEL_ERRORS.get(known)) is not None:
            return ErrorAnswer(model[0], [_item(error, model[1])], None, headers)
        if (request := _REQUEST_ERRORS.get(known)) is not None:
            return ErrorAnswer(request[0], error.message, request[1], headers)
    return ErrorAnswer(500, error.message, "internal_error", headers)


def failure_answer(failure: types_pb2.Failure, violations: list[Item] | None = None) -> ErrorAnswer:
    """For a request that ended without success; `violations` as for `error_answer`."""
    error = errors.error_for_reason(failure.reason, failure.message)
    error.violations = violations_from(failure)
    answer = error_answer(error, violations)
    told = retryable_headers(retryable=failure.retryable)
    return replace(answer, headers={**answer.headers, **told})


def start_timeout_answer() -> ErrorAnswer:
    """The caller's own start timeout passed; the extra header keeps clients from trying again."""
    return ErrorAnswer(
        504, "Request timed out", "request_timeout", {"x-fal-request-timeout-type": "user"}
    )


def _item(error: errors.QuickthawError, kind: str) -> Item:
    return {"loc": ["body"], "msg": error.message, "type": kind}
