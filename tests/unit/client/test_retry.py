"""Patience: how often and how long the client tries again. No network, no clock."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.client import Context, RetryPolicy
from quickthaw.client.methods import CREATE_KEY, GET
from quickthaw.client.retry import call_with_retry
from quickthaw.client.steps import Call, Sleep
from quickthaw.v1 import billing_pb2, inference_pb2, types_pb2
from quickthaw.wire.errors import InvalidInput, QueueFull, QuickthawError, Unavailable


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pauses_until_the_end(
    policy: RetryPolicy, failures: Sequence[QuickthawError | types_pb2.Request], seed: int = 0
) -> tuple[list[float], object]:
    """Drives one call whose tries end as `failures` say; the pauses, and the error or answer."""
    time = Time()
    context = Context(retry=policy, monotonic=time, random=random.Random(seed))
    operation = call_with_retry(context, GET, inference_pb2.GetRequest(request_id="r"))
    answers = iter(failures)
    pauses: list[float] = []
    step = next(operation)
    try:
        while True:
            if isinstance(step, Sleep):
                pauses.append(step.seconds)
                time.now += step.seconds
                step = operation.send(None)
                continue
            assert isinstance(step, Call)
            answer = next(answers)
            if isinstance(answer, QuickthawError):
                step = operation.throw(answer)
            else:
                step = operation.send(answer)
    except StopIteration as end:
        return pauses, end.value
    except QuickthawError as error:
        return pauses, error


def test_an_answer_after_two_broken_connections_is_the_answer() -> None:
    answer = types_pb2.Request(request_id="r")
    pauses, result = pauses_until_the_end(
        RetryPolicy(), [Unavailable("a"), Unavailable("b"), answer]
    )
    assert result == answer
    assert len(pauses) == 2


def test_the_callers_own_mistake_is_not_tried_again() -> None:
    pauses, result = pauses_until_the_end(RetryPolicy(), [InvalidInput("no")])
    assert isinstance(result, InvalidInput)
    assert pauses == []


def test_the_servers_retry_delay_is_waited_for() -> None:
    full = QueueFull("full", retry_delay_seconds=2.5)
    pauses, _ = pauses_until_the_end(RetryPolicy(), [full, types_pb2.Request()])
    assert pauses[0] >= 2.5


def test_a_delay_beyond_the_policy_is_the_callers_to_wait() -> None:
    full = QueueFull("full", retry_delay_seconds=100.0)
    pauses, result = pauses_until_the_end(RetryPolicy(total_seconds=60), [full])
    assert result is full
    assert pauses == []


@given(attempts=st.integers(1, 12), seed=st.integers(0, 100), total=st.floats(0.0, 100.0))
def test_tries_and_pauses_stay_within_the_policy(attempts: int, seed: int, total: float) -> None:
    policy = RetryPolicy(attempts_max=attempts, total_seconds=total)
    failures = [Unavailable(str(n)) for n in range(attempts)]
    pauses, result = pauses_until_the_end(policy, failures, seed)
    assert isinstance(result, Unavailable)
    assert len(pauses) <= attempts - 1
    assert sum(pauses) <= total
    assert all(pause <= policy.pause_seconds_max for pause in pauses)


def test_a_call_that_must_not_happen_twice_is_made_once() -> None:
    operation = call_with_retry(Context(), CREATE_KEY, billing_pb2.CreateKeyRequest(tenant="t"))
    next(operation)
    with pytest.raises(Unavailable):
        operation.throw(Unavailable("the connection broke"))
