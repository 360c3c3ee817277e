from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.fal.call_options import read_options
from quickthaw.v1 import types_pb2
from quickthaw.wire.errors import InvalidArgument


def test_headers_are_found_in_any_case() -> None:
    options = read_options(
        Headers(
            {
                "X-Fal-Queue-Priority": "low",
                "X-Fal-Request-Timeout": "30.0",
                "X-Fal-Runner-Hint": "worker-3",
            }
        )
    )
    assert options.priority == types_pb2.PRIORITY_LOW
    assert options.start_timeout_seconds == 30
    assert options.worker_hint == "worker-3"


def test_an_unknown_priority_is_normal() -> None:
    assert read_options({"x-fal-queue-priority": "urgent"}).priority == types_pb2.PRIORITY_NORMAL


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1e9"])
def test_a_start_timeout_is_a_number_of_seconds_above_zero(text: str) -> None:
    with pytest.raises(HttpError) as caught:
        read_options({"x-fal-request-timeout": text})
    assert (caught.value.answer.status, caught.value.answer.error_type) == (400, "bad_request")


def test_a_long_idempotency_key_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at most 128"):
        read_options({"idempotency-key": "k" * 129})
