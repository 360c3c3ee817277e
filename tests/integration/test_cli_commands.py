"""The commands against a platform whose answers the test writes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.main import execute
from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors
from support import answers
from support.fake_platform import KEY, FakePlatform


@dataclass(frozen=True)
class Told:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Quickthaw = Callable[..., Told]


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with FakePlatform() as made:
        made.scripts |= {
            "GetModel": lambda _: answers.a_model(),
            "Submit": lambda _: inference_pb2.SubmitResponse(request_id=answers.REQUEST_ID),
            "Watch": watch_all,
            "ReadArtifact": lambda _: answers.chunks(answers.PICTURE, answers.an_artifact()),
            "Cancel": lambda _: inference_pb2.CancelResponse(
                state=types_pb2.REQUEST_STATE_CANCELLED
            ),
        }
        yield made


@pytest.fixture
def quickthaw(
    platform: FakePlatform,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Quickthaw:
    monkeypatch.setenv("QUICKTHAW_GRPC", platform.address)
    monkeypatch.setenv("QUICKTHAW_KEY", KEY)
    monkeypatch.setenv("QUICKTHAW_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Told:
        capsys.readouterr()
        status = execute(arguments)
        captured = capsys.readouterr()
        return Told(status, captured.out, captured.err)

    return call


async def watch_all(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
    for event in answers.a_run():
        if event.sequence > message.after_sequence:
            yield event


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
    assert json.loads(platform.calls("Submit")[0].input_json)["preview_every"] == 4


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


def test_models_are_listed_shown_and_removed(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    platform.scripts |= {
        "ListModels": lambda _: catalog_pb2.ListModelsResponse(models=[answers.a_model()]),
        "Remove": lambda _: catalog_pb2.RemoveResponse(),
    }
    assert "quickthaw/shapes" in quickthaw("models").out
    assert quickthaw("models", "list", "--json").json[0]["aliases"] == ["shapes"]
    # The group's own option holds for its commands.
    assert quickthaw("models", "--json", "list").json == quickthaw("models", "--json").json
    shown = quickthaw("models", "show", "shapes").out
    assert "What the picture shows." in shown
    assert "required" in shown
    assert quickthaw("models", "show", "shapes", "--json").json["input_schema"]["properties"]
    assert quickthaw("models", "remove", "shapes", "--json").json == {"removed": "shapes"}


def test_workers_are_listed_and_drained(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    worker = fleet_pb2.Worker(
        worker_id="gpu-box-0",
        gpu_type="l4",
        state=fleet_pb2.WORKER_STATE_READY,
        vram_bytes=24 << 30,
        resident_models=["quickthaw/shapes"],
    )
    platform.scripts |= {
        "ListWorkers": lambda _: fleet_pb2.ListWorkersResponse(workers=[worker]),
        "Drain": lambda _: fleet_pb2.DrainResponse(worker=worker),
    }
    out = quickthaw("workers").out
    assert "gpu-box-0" in out
    assert "24.00 GiB" in out
    assert quickthaw("workers", "--json").json[0]["state"] == "ready"
    assert quickthaw("workers", "drain", "gpu-box-0", "--stop").status == 0
    assert platform.calls("Drain")[0].stop


def test_requests_are_listed_shown_watched_and_cancelled(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    platform.scripts |= {
        "List": lambda _: inference_pb2.ListRequestsResponse(requests=[answers.a_request()]),
        "Get": lambda _: answers.a_request(),
    }
    assert answers.REQUEST_ID in quickthaw("requests").out
    assert quickthaw("requests", "list", "--json", "--limit", "5").json[0]["state"] == "succeeded"
    assert platform.calls("List")[-1].page.size == 5
    assert "a red circle" in quickthaw("requests", "show", answers.REQUEST_ID).out
    watched = quickthaw("requests", "watch", answers.REQUEST_ID, "--json", "--after", "5")
    assert [line["event"] for line in watched.lines] == ["progressed", "finished"]
    cancelled = quickthaw("requests", "cancel", answers.REQUEST_ID, "--json").json
    assert cancelled == {"request_id": answers.REQUEST_ID, "state": "cancelled"}


def test_explain_shows_terms_and_refusals(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    decision = fleet_pb2.Decision(
        attempt=1,
        chosen_worker_id="a",
        candidates=[
            fleet_pb2.Candidate(worker_id="b", score_seconds=2.5),
            fleet_pb2.Candidate(
                worker_id="a", score_seconds=1.25, start_tier=types_pb2.TIER_PINNED
            ),
        ],
        refusals=[fleet_pb2.Refusal(worker_id="c", reason="vram", detail="12 GiB short")],
        tie_break="worker id",
    )
    platform.scripts["Explain"] = lambda m: fleet_pb2.ExplainResponse(
        request_id=m.request_id, decisions=[decision]
    )
    out = quickthaw("explain", "r").out
    assert out.index("1.250") < out.index("2.500")
    for fact in ("pinned", "12 GiB short", "vram", "tie broken by worker id"):
        assert fact in out
    told = quickthaw("explain", "r", "--json").json
    assert told["decisions"][0]["candidates"][1]["start_tier"] == "pinned"


def test_a_quote_shows_both_estimates(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    platform.scripts["Quote"] = lambda _: inference_pb2.QuoteResponse(
        worker_id="w",
        start_tier=types_pb2.TIER_VRAM,
        run_seconds=inference_pb2.Estimate(p50=1.5, p95=2.5),
        price_nanodollars=inference_pb2.Estimate(p50=30_000, p95=50_000),
    )
    out = quickthaw("quote", "shapes", "prompt=x").out
    assert "1.50 s (95 %: 2.50 s)" in out
    assert "$0.00003 (95 %: $0.00005)" in out
    assert quickthaw("quote", "shapes", "prompt=x", "--json").json["run_seconds"]["p95"] == 2.5
    assert platform.calls("Submit") == []


def test_usage_is_a_table_an_object_or_the_ledger_as_csv(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    line = billing_pb2.UsageLine(model="m", gpu_type="l4", requests=2, price_nanodollars=30)
    ledger = billing_pb2.LedgerLine(
        attempt_id="a1",
        model="m, with a comma",
        outcome=types_pb2.REQUEST_STATE_SUCCEEDED,
        price_nanodollars=30,
    )
    platform.scripts |= {
        "GetUsage": lambda _: billing_pb2.GetUsageResponse(tenant="t", lines=[line], total=line),
        "ListLedger": lambda _: billing_pb2.ListLedgerResponse(lines=[ledger]),
        "GetPrices": lambda _: billing_pb2.GetPricesResponse(
            version="v1",
            prices=[billing_pb2.Price(gpu_type="l4", rate_nanodollars_per_second=222_000)],
        ),
    }
    assert "total" in quickthaw("usage").out
    assert quickthaw("usage", "--json").json["total"]["price_nanodollars"] == 30
    heading, row = quickthaw("usage", "--csv", "--from", "2026-11-01").out.splitlines()
    assert heading.split(",")[1] == "attempt_id"
    assert '"m, with a comma"' in row
    assert ",succeeded," in row
    assert platform.calls("ListLedger")[0].from_unix_ms > 0
    assert "$0.7992/h" in quickthaw("prices").out


def test_a_new_keys_secret_is_all_that_is_printed(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    key = billing_pb2.Key(key_id="k", tenant="team", scopes=[billing_pb2.SCOPE_CALL])
    platform.scripts |= {
        "CreateKey": lambda _: billing_pb2.CreateKeyResponse(key=key, secret="qt_k_s"),
        "ListKeys": lambda _: billing_pb2.ListKeysResponse(keys=[key]),
        "RevokeKey": lambda _: billing_pb2.RevokeKeyResponse(key=key),
    }
    assert quickthaw("keys", "create", "team", "--label", "x").out == "qt_k_s\n"
    assert quickthaw("keys", "create", "team", "--json").json["key"]["scopes"] == ["call"]
    assert "team" in quickthaw("keys").out
    assert quickthaw("keys", "revoke", "k").status == 0


def test_on_a_terminal_the_newest_preview_is_drawn_in_colour(
    quickthaw: Quickthaw, tmp_path: Path
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


def test_a_full_disk_is_one_line(quickthaw: Quickthaw, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("quickthaw.client.artifacts._sync", full)
    told = quickthaw("run", "shapes", "prompt=x")
    assert told.status == 1
    assert "no space left" in told.err
    assert "Traceback" not in told.err
