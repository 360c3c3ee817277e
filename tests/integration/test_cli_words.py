"""What the command line says to people: which hint, which time, which protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.output import describe
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire import errors
from support import answers
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform


class PlayedGateway(BaseHTTPRequestHandler):
    """Takes uploads, and answers what it is to bring as its server was told."""

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Gateway)
        self.rfile.read(int(self.headers["content-length"]))
        server.paths.append(self.path)
        told: dict[str, object] = {"access_url": "http://localhost/files/x"}
        if self.path.startswith("/v1/inputs/"):
            told = {"input": {"prompt": "x"}} if server.status == 200 else server.refusal
        body = json.dumps(told).encode()
        self.send_response(server.status if self.path.startswith("/v1/") else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to stderr: a test reads what the command says there."""


class Gateway(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PlayedGateway)
        self.paths: list[str] = []
        self.status = 200
        self.refusal: dict[str, Any] = {"detail": "no"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        running = {"grpc": "", "http": url, "metrics": "", "key_file": "admin.key", "pid": 1}
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "run.json").write_text(json.dumps(running))
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_brought_for_the_model_that_an_alias_means(
    quickthaw: Quickthaw, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"x")
    told = quickthaw("run", "shapes", "prompt=x", 'loras=[{"path": "./style.safetensors"}]')
    assert told.status == 0, told.err
    assert gateway.paths == ["/cdn/files/upload", "/v1/inputs/quickthaw/shapes"]


def test_what_a_gateway_refuses_for_other_reasons_is_not_blamed_on_the_inputs(
    quickthaw: Quickthaw, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"x")
    gateway.status = 404
    told = quickthaw("run", "shapes", "prompt=x", 'loras=[{"path": "./style.safetensors"}]')
    assert told.status == 1
    assert "models show" not in told.err


def test_a_file_that_cannot_be_used_is_told_with_the_input_that_names_it(
    quickthaw: Quickthaw, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"x")
    gateway.status = 422
    gateway.refusal = {"detail": [{"loc": ["body", "loras", 0, "path"], "msg": "It is none."}]}
    told = quickthaw("run", "shapes", "prompt=x", 'loras=[{"path": "./style.safetensors"}]')
    assert told.err.startswith("error: loras[0].path: It is none.\n")
    gateway.refusal["detail"][0]["msg"] = "loras[0].path: It is none."
    told = quickthaw("run", "shapes", "prompt=x", 'loras=[{"path": "./style.safetensors"}]')
    assert told.err.startswith("error: loras[0].path: It is none.\n"), "it is named once"


def test_a_file_named_without_its_dot_and_slash_is_refused_before_anything_is_submitted(
    quickthaw: Quickthaw, platform: FakePlatform, tmp_path: Path
) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"x")
    told = quickthaw("run", "shapes", "prompt=x", 'loras=[{"path": "style.safetensors"}]')
    assert told.status == 2
    assert "write ./style.safetensors" in told.err
    assert not platform.calls("Submit")
    assert quickthaw("run", "shapes", "prompt=x", 'loras=[{"path": "me/style"}]').status == 0


def test_the_last_line_of_a_watch_has_the_time_of_the_end(
    quickthaw: Quickthaw,
) -> None:
    lines = quickthaw("requests", "watch", answers.REQUEST_ID).out.splitlines()
    (end,) = [line for line in lines if line.endswith(" succeeded")]
    finished = time.localtime(answers.a_request().finished_unix_ms / 1000)
    assert end == f"{time.strftime('%H:%M:%S', finished)} succeeded"


def test_cancelling_what_has_ended_says_that_it_came_too_late(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    platform.scripts["Cancel"] = lambda _: inference_pb2.CancelResponse(
        state=types_pb2.REQUEST_STATE_SUCCEEDED
    )
    told = quickthaw("requests", "cancel", "req_1")
    assert told.status == 0
    assert told.out == "req_1 had already succeeded\n"


@pytest.mark.parametrize(
    ("error", "hinted"),
    [
        (errors.PermissionDenied("s3://models/x: access denied (HTTP 403)"), False),
        (errors.PermissionDenied("this needs the scope 'admin'"), True),
        (errors.Unavailable("no worker could take the request now; attach one"), False),
    ],
)
def test_a_hint_is_given_where_it_helps(error: errors.QuickthawError, hinted: bool) -> None:
    assert bool(describe(error)["hint"]) is hinted


def test_a_period_that_ends_before_it_begins_is_told_in_the_options_words(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    told = quickthaw("usage", "--from", "2026-12-01", "--until", "2026-11-01")
    assert told.status == 2
    assert "--until 2026-11-01 lies before --from 2026-12-01" in told.err
    assert not platform.received


def test_the_usage_of_a_tenant_that_is_none_is_no_bill_of_nothing(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    def unknown(_: object) -> object:
        raise errors.NotFound("there is no tenant 'nobody'")

    platform.scripts["GetAccount"] = unknown
    told = quickthaw("usage", "--tenant", "nobody")
    assert told.status == 1
    assert "there is no tenant 'nobody'" in told.err
    assert told.out == ""


def test_csv_and_json_at_once_are_refused(quickthaw: Quickthaw) -> None:
    told = quickthaw("usage", "--csv", "--json")
    assert told.status == 2
    assert "--csv" in told.json["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ("run shapes prompt=x --deadline soon", "--deadline"),
        ("deploy rollback me/x newest", "VERSION"),
    ],
)
def test_a_number_that_is_none_is_said_plainly(
    quickthaw: Quickthaw, arguments: str, wrong: str
) -> None:
    told = quickthaw(*arguments.split())
    assert told.status == 2
    assert wrong in told.err
    assert "number" in told.err
    assert "parse" not in told.err


def test_an_export_into_a_folder_that_is_not_there_is_refused_by_that_name(
    quickthaw: Quickthaw, platform: FakePlatform, tmp_path: Path
) -> None:
    told = quickthaw("requests", "export", "--output", str(tmp_path / "nowhere" / "mine.jsonl"))
    assert told.status == 2
    assert told.err.endswith("nowhere\n")


def test_a_folder_that_is_not_there_does_not_count_as_an_empty_one(
    quickthaw: Quickthaw, tmp_path: Path
) -> None:
    for command in ("list", "ls"):
        told = quickthaw("snapshot", command, str(tmp_path / "nowhere"))
        assert told.status == 2
        assert "nowhere: no such folder" in told.err
        assert not (tmp_path / "nowhere").exists()


def test_the_gateways_address_given_for_the_schedulers_is_named_as_the_mistake(
    gateway: Gateway,
) -> None:
    told = refused(f"127.0.0.1:{gateway.server_port}")
    assert "not the gateway's" in told
    assert told.count("\n") == 2, "one line of error, one of hint"


def test_an_address_where_nothing_listens_is_said_in_a_line_of_our_own(
    platform: FakePlatform,
) -> None:
    platform.stop()
    told = refused(platform.address)
    assert told.startswith(
        f"error: cannot reach {platform.address}: connection refused, nothing listens there\n"
    )
    platform.start()


def test_tls_to_an_address_without_it_is_named_and_nothing_else_is_said(
    platform: FakePlatform,
) -> None:
    told = refused(f"grpcs://{platform.address}")
    assert "without grpcs://" in told
    assert told.count("\n") == 1, told


def refused(address: str) -> str:
    """What `quickthaw models` says on stderr, of a process of its own: gRPC's lines show there."""
    told = subprocess.run(
        [sys.executable, "-m", "quickthaw.cli", "models", "--grpc", address],
        env={**os.environ, "QUICKTHAW_KEY": "qt_test_secret"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    return told.stderr
