"""The published replicate client, unchanged, against a platform as `quickthaw up` starts it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from replicate.webhook import Webhooks, WebhookSigningSecret

from quickthaw.cli.pointing import Place, variables
from support import replicate_script
from support.node import needs_node
from support.node import run_script as run_node
from support.platform import Platform, running_platform
from support.receiver import Receiver, a_receiver

NAME = "quickthaw/shapes"
REFUSED = (
    ("input", 422, "Input validation failed"),
    ("model", 404, "Not Found"),
    ("version", 422, "Input validation failed"),
    ("prediction", 404, "Not Found"),
    ("key", 401, "Unauthenticated"),
)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICKTHAW_WEBHOOK_ALLOW_PRIVATE", "1")
        with running_platform(tmp_path_factory.mktemp("replicate")) as platform:
            yield platform


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with a_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def environment(platform: Platform) -> dict[str, str]:
    place = Place(platform.ready["http"].rstrip("/"), platform.key, platform.data_dir / "tls")
    return {**os.environ, **variables("replicate", place)}


def run_script(environment: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-P", replicate_script.__file__, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(environment: dict[str, str], receiver: Receiver) -> Any:
    return run_script(environment, NAME, f"{receiver.url}/replicate")


def test_a_run_gives_files_that_can_be_read(told: Any) -> None:
    for call in ("run", "run_polling", "async_run"):
        assert len(told[call]) == 1, call
        assert told[call][0] > 100, call
    # Behind plain HTTP only a data: URI becomes a file object.
    assert told["run_url"].startswith("data:image/png;base64,")
    assert told["run_by_version"] == 1


def test_models_and_versions_are_found(told: Any) -> None:
    assert told["model"] == ["quickthaw", "shapes", "public"]
    assert len(told["version"]) == 64
    assert told["versions"] == [told["version"]] == [told["same_version"]]
    assert {"prompt", "seed"} <= set(told["inputs"])
    assert NAME in told["models"]
    assert told["found"] == ["shapes"]


def test_a_prediction_is_made_waited_for_and_found_again(told: Any) -> None:
    length, status, model, version = told["created"]
    assert (length, status, model, version) == (26, "starting", NAME, told["version"])
    status, metrics, error = told["waited"]
    assert (status, error) == ("succeeded", None)
    assert metrics["predict_time"] > 0
    assert metrics["total_time"] >= metrics["predict_time"]
    assert all(told["times"])
    current, total, percentage = told["progress"]
    assert (current, percentage) == (total, 1.0)
    assert told["same"]
    assert told["listed"]
    assert told["pages"] >= 4
    assert told["created_waiting"] == "succeeded"
    assert told["async_created"] == "succeeded"


def test_a_cancelled_prediction_ends_as_canceled(told: Any) -> None:
    assert told["cancelled"] == "canceled"


def test_a_stream_has_logs_the_output_and_an_end(told: Any) -> None:
    names = [name.rpartition(".")[2].lower() for name, _ in told["stream"]]
    assert names[-1] == "done"
    assert names.count("output") == 1
    assert "logs" in names
    assert told["async_stream"].lower().endswith("done")


def test_who_one_is_and_what_there_is(told: Any) -> None:
    assert told["account"] == ["user", "default"]
    assert "cpu" in told["hardware"]


@pytest.mark.parametrize(("label", "status", "title"), REFUSED)
def test_a_mistake_is_told_in_its_words(told: Any, label: str, status: int, title: str) -> None:
    assert told[f"mistake_{label}"][:2] == [status, title]
    assert told[f"mistake_{label}"][2]


def test_wrong_input_is_named(told: Any) -> None:
    assert told["mistake_input"][2].startswith("- prompt: ")


def test_a_webhook_passes_the_clients_own_check(told: Any, receiver: Receiver) -> None:
    received = receiver.take()
    assert received.path == "/replicate"
    Webhooks.validate(
        headers=dict(received.headers),
        body=received.body.decode(),
        secret=WebhookSigningSecret(key=told["secret"]),
        tolerance=300,
    )
    assert received.json["status"] == "succeeded"
    assert received.json["output"][0].startswith("data:image/png")
    assert receiver.received.empty(), "the filter named one event"


def test_webhooks_on_the_way_come_before_the_last(
    told: Any, environment: dict[str, str], receiver: Receiver
) -> None:
    with httpx.Client(
        base_url=environment["REPLICATE_BASE_URL"],
        headers={"authorization": f"Bearer {environment['REPLICATE_API_TOKEN']}"},
        timeout=60,
    ) as http:
        answer = http.post(
            f"/v1/models/{NAME}/predictions",
            json={"input": replicate_script.INPUT, "webhook": f"{receiver.url}/all"},
            headers={"prefer": "wait=30"},
        )
    assert answer.status_code == 201
    found: list[tuple[str, str]] = []
    while not {"start", "output", "completed"} <= {each[0] for each in found}:
        received = receiver.take()
        event = received.headers["webhook-id"].split("_")[3]
        found.append((event, received.json["status"]))
        assert received.json["id"] == answer.json()["id"]
    assert dict(found)["completed"] == "succeeded"
    assert len({each[0] for each in found}) == len(
        [each for each in found if each[0] != "logs"]
    ) + ("logs" in dict(found))


def test_the_secret_is_one_that_the_client_can_take_apart(told: Any) -> None:
    assert told["secret"].startswith("whsec_")
    assert told["secret"].count("_") == 1


def test_files_are_brought_listed_read_and_deleted(environment: dict[str, str]) -> None:
    told = run_script(environment, "files")
    name, content_type, size, metadata, checksums = told["file"]
    assert (name, content_type, size, metadata) == ("x.txt", "text/plain", 10, {"a": 1})
    assert checksums == {
        "sha256": hashlib.sha256(b"some bytes").hexdigest(),
        "md5": hashlib.md5(b"some bytes").hexdigest(),
    }
    assert told["read_without_a_key"] == "some bytes"
    assert told["file_again"]
    assert told["files"]
    assert told["deleted"]
    assert told["files_left"] == 0


@needs_node
async def test_the_javascript_client_works_as_published(
    platform: Platform, environment: dict[str, str]
) -> None:
    base = platform.ready["http"].rstrip("/")
    told: dict[str, Any] = await run_node(
        "replicate.mjs", base, environment["REPLICATE_API_TOKEN"], NAME
    )
    for call in ("run", "polled", "by_version"):
        assert told[call] > 100, call
    assert told["progress"] == "succeeded"
    assert told["model"] == ["quickthaw", "shapes", 64]
    assert len(told["versions"]) == 1
    assert told["version"]
    assert "shapes" in told["models"]
    assert told["search"] == ["shapes"]
    assert told["waited"] == [26, "succeeded", None]
    assert told["same"]
    assert told["hook"] == ["succeeded", True]
    assert told["cancelled"]
    assert told["cancelled_as"] == "canceled"
    assert told["listed"] >= 6
    end, has_logs, streamed = told["stream"]
    assert (end, has_logs) == ("done", True)
    assert streamed > 100, "an output of a stream is a file as well"
    assert told["file"] == [10, "text/plain", {"a": 1}, "some bytes"]
    assert told["file_again"]
    assert told["files"] == 1
    assert told["account"] == "user"
    assert "cpu" in told["hardware"]
    assert (told["mistake_input"], told["mistake_model"]) == (422, 404)


def test_a_webhook_outlives_the_death_of_scheduler_and_gateway(
    platform: Platform, environment: dict[str, str], receiver: Receiver
) -> None:
    """By fal's queue: the request ends while nobody is there who could deliver."""
    with httpx.Client(
        base_url=platform.ready["http"],
        headers={"authorization": f"Key {environment['REPLICATE_API_TOKEN']}"},
        timeout=60,
    ) as http:
        answer = http.post(
            f"/queue/{NAME}",
            params={"fal_webhook": f"{receiver.url}/survivor"},
            json={"prompt": "a red circle", "num_inference_steps": 20},
        )
    assert answer.status_code == 200
    platform.kill("gateway")
    platform.kill("scheduler")
    while (received := receiver.take()).path != "/survivor":
        pass  # From the tests before.
    assert received.json["request_id"] == answer.json()["request_id"]
    assert received.json["status"] == "OK"
