"""What people mistype, and what reads a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from quickthaw.v1 import billing_pb2, inference_pb2
from quickthaw.wire import errors
from support import answers
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform


@pytest.mark.parametrize(
    "option",
    [
        "--deadline=nan",
        "--deadline=inf",
        "--deadline=1e300",
        "--deadline=0",
        "--deadline=-5",
        "--price-cap=nan",
        "--price-cap=inf",
        "--price-cap=-1",
        # On the wire 0 means that there is no cap.
        "--price-cap=0",
    ],
)
def test_a_limit_that_makes_no_sense_is_named_before_anything_is_submitted(
    quickthaw: Quickthaw, platform: FakePlatform, option: str
) -> None:
    told = quickthaw("run", "shapes", "prompt=x", option)
    assert told.status == 2
    assert option.split("=", maxsplit=1)[0] in told.err
    assert "Traceback" not in told.err
    assert not platform.calls("Submit")


def test_a_piped_table_keeps_each_row_on_one_line(
    quickthaw: Quickthaw, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    platform.scripts["List"] = lambda _: inference_pb2.ListRequestsResponse(
        requests=[answers.a_request()]
    )
    rows = [line for line in quickthaw("requests").out.splitlines() if answers.REQUEST_ID in line]
    assert len(rows) == 1
    assert "quickthaw/shapes" in rows[0]


def test_a_leaked_key_is_revoked_without_sending_its_secret(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    platform.scripts["RevokeKey"] = lambda _: billing_pb2.RevokeKeyResponse()
    assert quickthaw("keys", "revoke", "qt_abc123_se-cr_et").status == 0
    assert quickthaw("keys", "revoke", "abc123").status == 0
    assert [message.key_id for message in platform.calls("RevokeKey")] == ["abc123", "abc123"]


def test_a_violation_that_the_message_tells_already_is_not_told_twice(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    def refuse(_: object) -> inference_pb2.SubmitResponse:
        violations = (errors.FieldViolation("input.seed", "must be at least 0, not -1"),)
        raise errors.InvalidInput("input.seed must be at least 0, not -1", violations=violations)

    platform.scripts["Submit"] = refuse
    assert quickthaw("run", "shapes", "prompt=x").err.count("must be at least 0") == 1


def test_an_output_folder_that_cannot_be_made_is_refused_before_the_run_costs_anything(
    quickthaw: Quickthaw, platform: FakePlatform, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    told = quickthaw("run", "shapes", "prompt=x", "--output", str(tmp_path / "file"))
    assert told.status == 2
    assert "--output" in told.err
    assert not platform.calls("Submit")


def test_the_files_of_a_past_request_can_be_fetched(
    quickthaw: Quickthaw, platform: FakePlatform, tmp_path: Path
) -> None:
    platform.scripts["Get"] = lambda _: answers.a_request()
    told = quickthaw("requests", "save", answers.REQUEST_ID, "--output", str(tmp_path / "kept"))
    assert told.status == 0, told.err
    (path,) = (tmp_path / "kept").iterdir()
    assert told.out == f"{path}\n"
    assert path.read_bytes() == answers.PICTURE


def test_a_streamed_run_ends_with_its_receipt(quickthaw: Quickthaw) -> None:
    out = quickthaw("run", "shapes", "prompt=x", "--stream").out
    assert "succeeded" in out
    assert "billed" in out


def test_files_that_cannot_be_fetched_now_can_be_fetched_later(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    def lost(_: object) -> object:
        raise errors.NotFound("the blob store has no such file")

    platform.scripts["ReadArtifact"] = lost
    told = quickthaw("run", "shapes", "prompt=x")
    assert told.status == 1
    assert f"quickthaw requests save {answers.REQUEST_ID}" in told.err


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("--private --shared", "choose one"),
        ("--timeout 0", "--timeout 0"),
        ("--timeout nan", "--timeout nan"),
    ],
)
def test_a_deployment_with_options_that_make_no_sense_does_not_begin(
    quickthaw: Quickthaw, platform: FakePlatform, words: str, wrong: str
) -> None:
    told = quickthaw("deploy", "x.safetensors", "--name", "me/x", *words.split())
    assert told.status == 2
    assert wrong in told.err
    assert not platform.received


@pytest.mark.parametrize(
    "arguments",
    [
        "requests list --state lost",
        "webhooks list --state lost",
        "deployments list --state lost",
        "keys create team --scope king",
        "keys create team --expires yesterday",
        "keys update abc --expires yesterday",
        "usage --by weather",
        "env photoshop",
        "run-with photoshop -- true",
    ],
)
def test_a_word_that_is_none_is_named_before_a_platform_is_looked_for(
    quickthaw: Quickthaw, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.delenv("QUICKTHAW_GRPC")
    told = quickthaw(*arguments.split())
    assert told.status == 2, told.err
    wrong = next(
        word
        for word in arguments.split()
        if word in ("lost", "king", "yesterday", "weather", "photoshop")
    )
    assert repr(wrong) in told.err
    assert "hint:" in told.err
    assert "valid" not in told.err, "that is Python's way to say it"
