from __future__ import annotations

import pytest

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.replicate.creating import read_wanted, wait_seconds
from quickthaw.gateway.replicate.names import replicate_name, version_id
from quickthaw.gateway.replicate.progress import progress_line


def test_a_third_part_of_a_name_is_joined_by_a_hyphen() -> None:
    assert replicate_name("fal-ai/flux/schnell") == "fal-ai/flux-schnell"
    assert replicate_name("quickthaw/shapes") == "quickthaw/shapes"


def test_a_version_is_that_of_one_model_and_one_snapshot() -> None:
    ids = {version_id(model, digest) for model in ("a/b", "a/c") for digest in ("", "ab" * 32)}
    assert len(ids) == 4
    assert all(len(each) == 64 for each in ids)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("", 0),
        ("wait", 59.75),
        ("wait=10", 9.75),
        ("respond-async", 0),
        ("respond-async, wait = 5", 4.75),
    ],
)
def test_an_answer_comes_a_little_before_the_clients_patience_ends(
    prefer: str, seconds: float
) -> None:
    assert wait_seconds({"prefer": prefer}) == seconds


@pytest.mark.parametrize("prefer", ["wait=0", "wait=61", "wait=00600", "wait=soon", "wait=-1"])
def test_a_wait_that_cannot_be_is_refused(prefer: str) -> None:
    with pytest.raises(HttpError):
        wait_seconds({"prefer": prefer})


@pytest.mark.parametrize(
    "body",
    [
        {"input": []},
        {"version": 5},
        {"webhook": "ftp://x"},
        {"webhook_events_filter": ["finished"]},
        {"webhook_events_filter": "completed"},
    ],
)
def test_a_field_that_is_wrong_is_named(body: dict[str, object]) -> None:
    with pytest.raises(HttpError) as raised:
        read_wanted(body)  # type: ignore[arg-type] # as JSON has it
    detail = raised.value.answer.detail
    assert not isinstance(detail, str)
    assert [item["loc"] for item in detail] == [["body", next(iter(body))]]


def test_without_a_filter_all_events_are_wanted() -> None:
    assert read_wanted({"webhook": "http://x"}).events == ("start", "output", "logs", "completed")


def test_progress_looks_as_clients_look_for_it() -> None:
    assert progress_line(2, 4) == "50%|#####     | 2/4"
