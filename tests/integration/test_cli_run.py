"""`quickthaw run` against a platform whose answers the test writes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quickthaw.v1 import inference_pb2
from quickthaw.wire import errors
from support import answers
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform


def test_run_saves_the_picture_and_shows_the_receipt(
    quickthaw: Quickthaw, platform: FakePlatform, tmp_path: Path
) -> None:
    told = quickthaw("run", "shapes", "prompt=a red circle", "seed=7", "image_size=64x32")
    assert told.status == 0, told.err
    (path,) = (tmp_path / "quickthaw-output").iterdir()
    assert path.read_bytes() == answers.PICTURE
    assert str(path.relative_to(tmp_path)) in told.out
    for fact in ("12 ms", "cold, from disk", "manifest 3.0 ms", "first step 400 ms", "$0.00002468"):
        assert fact in told.out
    assert "seed    7" in told.out
    (submitted,) = platform.calls("Submit")
    assert json.loads(submitted.input_json) == {
        "prompt": "a red circle",
        "seed": 7,
        "image_size": {"width": 64, "height": 32},
    }


def test_run_as_json_is_one_object_with_files_and_receipt(
    quickthaw: Quickthaw, tmp_path: Path
) -> None:
    told = quickthaw("run", "shapes", "prompt=x", "--json", "-o", str(tmp_path / "pictures"))
    assert told.status == 0
    assert told.err == ""
    answer = told.json
    assert answer["state"] == "succeeded"
    assert answer["receipt"]["price_nanodollars"] == 24_680
    assert answer["receipt"]["load"]["components"][0]["source"] == "disk"
    assert answer["artifacts"][0]["sha256"]
    (path,) = answer["files"]
    assert Path(path).read_bytes() == answers.PICTURE


def test_a_stream_is_one_object_a_line_and_ends_with_finished(
    quickthaw: Quickthaw, platform: FakePlatform, tmp_path: Path
) -> None:
    told = quickthaw("run", "shapes", "prompt=x", "--stream", "--json")
    assert told.status == 0
    lines = told.lines
    assert [line["event"] for line in lines] == [
        "state_changed",
        "state_changed",
        "state_changed",
        "progressed",
        "previewed",
        "progressed",
        "finished",
    ]
    assert lines[3]["step"] == 1
    assert Path(lines[4]["path"]).read_bytes() == answers.PICTURE
    assert lines[-1]["receipt"]["billed_ms"] == 1234
    assert json.loads(platform.calls("Submit")[0].input_json)["preview_every"] == 3


def test_a_failed_run_exits_1_with_a_line_and_in_json_an_error_object(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    async def fail(_message: object) -> AsyncIterator[inference_pb2.Event]:
        yield answers.an_end(1, answers.a_failure("ENGINE_FAILED", "the model raised"))

    platform.scripts["Watch"] = fail
    told = quickthaw("run", "shapes", "prompt=x")
    assert (told.status, told.out) == (1, "")
    assert "error: the model raised" in told.err
    assert "Traceback" not in told.err
    error = quickthaw("run", "shapes", "prompt=x", "--json").json["error"]
    assert error["reason"] == "ENGINE_FAILED"
    assert error["metadata"]["request_id"] == answers.REQUEST_ID


def test_an_interrupted_run_cancels_the_request_and_exits_130(
    quickthaw: Quickthaw, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_view: object, _event: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quickthaw.cli.progress.LineView.take", interrupt)
    told = quickthaw("run", "shapes", "prompt=x")
    assert told.status == 130
    assert f"cancelled request {answers.REQUEST_ID}" in told.err
    assert len(platform.calls("Cancel")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "shapes", "prompt"), "write name=value"),
        (("run", "shapes", "sed=7"), "did you mean 'seed'?"),
        (("run", "shapes", "seed=x"), "must be null or a whole number"),
        (("run", "shapes", "--priority", "urgent"), "low, normal or high"),
        (("run",), "missing argument"),
        (("rum", "shapes"), "did you mean 'run'"),
        (("models", "list", "--frobnicate"), "no such option"),
        (("requests", "list", "--state", "asleep"), "asleep"),
        (("usage", "--from", "yesterday"), "is no time"),
        (("keys", "create", "t", "--scope", "root"), "root"),
    ],
)
def test_a_wrong_call_exits_2_names_the_fault_and_hints(
    quickthaw: Quickthaw, platform: FakePlatform, arguments: tuple[str, ...], message: str
) -> None:
    told = quickthaw(*arguments)
    assert told.status == 2
    assert told.err.lower().startswith("error: ")
    assert message in told.err.lower().replace("‘", "'")
    assert len(told.err.splitlines()) <= 2
    assert platform.calls("Submit") == []
    error = quickthaw(*arguments, "--json").json["error"]
    assert error["reason"] == "USAGE"


def test_the_servers_violations_are_told_one_a_line(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    def refuse(_message: object) -> None:
        violations = (errors.FieldViolation("input.seed", "must be at least 0"),)
        raise errors.InvalidInput("the input does not fit", violations=violations)

    platform.scripts["Submit"] = refuse
    told = quickthaw("run", "shapes", "prompt=x")
    assert told.status == 1
    assert told.err.splitlines()[0] == "error: the input does not fit"
    assert "  input.seed: must be at least 0" in told.err
    violations = quickthaw("run", "shapes", "prompt=x", "--json").json["error"]["violations"]
    assert violations == [{"field": "input.seed", "description": "must be at least 0"}]


def test_without_a_platform_the_error_says_how_to_start_one(
    quickthaw: Quickthaw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("QUICKTHAW_GRPC")
    told = quickthaw("models")
    assert told.status == 1
    assert "quickthaw up" in told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("pairs", "every"),
    [
        ((), 3),  # of the schema's 20 steps
        (("num_inference_steps=50",), 7),
        (("num_inference_steps=4",), 1),
        (("preview_every=0",), 0),
        (("preview_every=9",), 9),
    ],
)
def test_about_eight_previews_are_asked_for_unless_the_caller_says_how_many(
    quickthaw: Quickthaw, platform: FakePlatform, pairs: tuple[str, ...], every: int
) -> None:
    quickthaw("run", "shapes", "prompt=x", "--stream", *pairs)
    assert json.loads(platform.calls("Submit")[0].input_json)["preview_every"] == every


def test_no_previews_are_asked_of_a_model_that_has_none(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    model = answers.a_model()
    model.input_schema_json = '{"type": "object", "properties": {"prompt": {"type": "string"}}}'
    platform.scripts["GetModel"] = lambda _: model
    quickthaw("run", "shapes", "prompt=x", "--stream")
    assert json.loads(platform.calls("Submit")[0].input_json) == {"prompt": "x"}


def test_on_a_terminal_the_newest_preview_is_drawn_in_colour(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    terminal, end = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    command = [sys.executable, "-m", "quickthaw.cli", "run", "shapes", "prompt=x"]
    with subprocess.Popen(command, stderr=end, stdout=subprocess.PIPE, env=environ) as process:
        os.close(end)
        seen = b""
        # A terminal whose other end is closed reads as an error, not as the end of a file.
        with contextlib.suppress(OSError):
            while chunk := os.read(terminal, 65536):
                seen += chunk
        out, _ = process.communicate()
    os.close(terminal)
    assert process.returncode == 0
    assert "▀".encode() in seen
    assert b"38;2;255;0;0" in seen
    assert b"billed" in out
    assert json.loads(platform.calls("Submit")[0].input_json)["preview_every"] == 3


def test_a_full_disk_is_one_line(quickthaw: Quickthaw, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("quickthaw.client.artifacts._sync", full)
    told = quickthaw("run", "shapes", "prompt=x")
    assert told.status == 1
    assert "no space left" in told.err
    assert "Traceback" not in told.err
