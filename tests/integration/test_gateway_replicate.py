"""Replicate's API where a test plays the platform: what clients would not show."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from quickthaw.gateway.replicate import files
from quickthaw.v1 import types_pb2
from quickthaw.wire import errors
from support.fake_inference import ALIAS, ALICE_KEY, BOB_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS

PREDICTIONS = "/replicate/v1/predictions"
OF_MODEL = "/replicate/v1/models/quickthaw/shapes/predictions"
INPUT = {"prompt": "x", "seed": 7}


async def test_an_answer_that_did_not_wait_for_the_end_says_starting_whatever_happens(
    tmp_path: Path,
) -> None:
    """Both clients take any other word in it for the end, and null for the output."""
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        asking = asyncio.create_task(
            rig.http.post(OF_MODEL, json={"input": INPUT}, headers={"prefer": "wait=1"})
        )
        request = await rig.platform.submitted()
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        answer = await asking
        assert (answer.status_code, answer.json()["status"]) == (201, "starting")
        running = await rig.http.get(f"{PREDICTIONS}/{answer.json()['id']}")
        assert running.json()["status"] == "processing"
        await request.succeed(rig.platform.picture(request, b"picture"))
        ended = (await rig.http.get(f"{PREDICTIONS}/{answer.json()['id']}")).json()
        assert ended["status"] == "succeeded"
        assert ended["output"] == ["data:image/png;base64,cGljdHVyZQ=="]
        assert all(isinstance(ended[name], str) for name in ("model", "version", "logs"))


async def test_a_model_is_found_by_a_name_of_two_parts_for_its_id_or_alias_of_three(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        owner, name, variant = ALIAS.split("/")
        found = await rig.http.get(f"/replicate/v1/models/{owner}/{name}-{variant}")
        assert found.json()["latest_version"]["id"]
        missing = await rig.http.get(f"/replicate/v1/models/{owner}/{name}-none")
        assert missing.status_code == 404
        assert missing.headers["content-type"] == "application/problem+json"
        assert set(missing.json()) == {"type", "title", "detail", "status"}


async def test_others_see_neither_prediction_nor_stream(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        made = (await rig.http.post(OF_MODEL, json={"input": INPUT})).json()
        bob = {"authorization": f"Bearer {BOB_KEY}"}
        for method, path in (("GET", ""), ("POST", "/cancel")):
            url = f"{PREDICTIONS}/{made['id']}{path}"
            assert (await rig.http.request(method, url, headers=bob)).status_code == 404
        assert ALICE_KEY not in made["urls"]["stream"]
        stream = made["urls"]["stream"]
        altered = stream[:-1] + ("A" if stream[-1] != "A" else "B")
        assert (await rig.nobody.get(altered)).status_code == 404


async def test_a_stream_needs_no_key_and_every_event_has_a_name_and_an_id(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        made = (await rig.http.post(OF_MODEL, json={"input": INPUT})).json()
        request = await rig.platform.submitted()
        await request.log("one\ntwo")
        await request.fail("ENGINE_FAILED", "it broke")
        text = (await rig.nobody.get(made["urls"]["stream"])).text
    events = [event.split("\n") for event in text.strip().split("\n\n")]
    names = [lines[0].removeprefix("event: ") for lines in events]
    assert names == ["logs", "error", "done"]
    assert all(lines[1].startswith("id: ") for lines in events)
    assert events[1][2] == "data: it broke"
    assert events[2][2] == 'data: {"reason":"error"}'


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"input": {"prompt": 5}}, "- prompt: "),
        ({"input": {}}, "- prompt: "),
        ({"input": []}, "- input: "),
        ({"input": INPUT, "webhook": 7}, "- webhook: "),
        ({"input": INPUT, "webhook_events_filter": ["x"]}, "- webhook_events_filter: "),
    ],
)
async def test_a_mistake_is_told_when_a_prediction_is_made(
    tmp_path: Path, body: dict[str, object], detail: str
) -> None:
    async with a_gateway(tmp_path) as rig:
        answer = await rig.http.post(OF_MODEL, json=body)
        assert answer.status_code == 422
        assert answer.json()["title"] == "Input validation failed"
        assert answer.json()["detail"].startswith(detail)
        assert not rig.platform.requests


async def test_a_webhook_is_refused_where_nobody_would_deliver_it(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_key=False) as rig:
        for events in (["completed"], ["start"]):
            answer = await rig.http.post(
                OF_MODEL,
                json={
                    "input": INPUT,
                    "webhook": "https://example.org",
                    "webhook_events_filter": events,
                },
            )
            assert answer.status_code == 400
        assert not rig.platform.requests


@pytest.mark.parametrize("path", ["deployments", "trainings", "collections", "files/none"])
async def test_what_is_not_served_is_a_problem_that_says_so(tmp_path: Path, path: str) -> None:
    async with a_gateway(tmp_path) as rig:
        await _is_missing(rig, f"/replicate/v1/{path}")


async def _is_missing(rig: Rig, path: str) -> None:
    answer = await rig.http.get(path)
    assert answer.status_code in (404, 501)
    assert answer.json()["status"] == answer.status_code


async def test_a_waiting_prediction_outlives_a_restart_of_the_scheduler(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        asking = asyncio.create_task(
            rig.http.post(OF_MODEL, json={"input": INPUT}, headers={"prefer": "wait"})
        )
        await rig.platform.submitted()
        await rig.restart_scheduler()
        request = await rig.platform.submitted(2)
        await request.watched_by(1)
        await request.log("drawing")
        await request.succeed(rig.platform.picture(request, b"picture"))
        answer = (await asking).json()
        assert (answer["status"], answer["logs"]) == ("succeeded", "drawing\n")


async def test_a_caller_that_leaves_while_it_waits_leaves_its_prediction_running(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        asking = asyncio.create_task(
            rig.http.post(OF_MODEL, json={"input": INPUT}, headers={"prefer": "wait"})
        )
        request = await rig.platform.submitted()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        await request.succeed(rig.platform.picture(request, b"picture"))
        ended = await rig.http.get(f"{PREDICTIONS}/{request.record.request_id}")
        assert ended.json()["status"] == "succeeded"
        assert not request.cancelled.is_set()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("15s", 15), ("1m30s", 90), ("1H2M3S", 3723)]
)
async def test_a_prediction_is_cancelled_after_the_time_that_its_maker_named(
    tmp_path: Path, text: str, seconds: int
) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        before_ms = time.time() * 1000
        headers = {"cancel-after": text}
        made = (await rig.http.post(OF_MODEL, json={"input": INPUT}, headers=headers)).json()
        request = await rig.platform.submitted()
        after_ms = request.submitted.deadline_unix_ms - before_ms
        assert 1000 * seconds <= after_ms + 1 < 1000 * (seconds + PATIENCE_SECONDS)
        await request.fail("DEADLINE_EXPIRED", "it had not ended by then")
        ended = (await rig.http.get(f"{PREDICTIONS}/{made['id']}")).json()
        assert (ended["status"], ended["output"]) == ("canceled", None)
        told = (await rig.nobody.get(ended["urls"]["stream"])).text
        assert "event: error" not in told
        assert 'data: {"reason":"canceled"}' in told.replace(': "', ':"')


@pytest.mark.parametrize("text", ["soon", "0", "5d", "200h", "1s2m", "-1"])
async def test_a_time_to_cancel_after_that_means_nothing_is_refused(
    tmp_path: Path, text: str
) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {"cancel-after": text}
        refused = await rig.http.post(OF_MODEL, json={"input": INPUT}, headers=headers)
        assert (refused.status_code, refused.json()["detail"][:14]) == (422, "- Cancel-After")
        assert not rig.platform.requests


async def test_a_time_that_no_run_can_keep_is_the_headers_fault(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.refuse_submit = errors.DeadlineExpired("the earliest end is 19 s from now")
        for prefer in ("wait", "respond-async"):
            headers = {"cancel-after": "5s", "prefer": prefer}
            refused = await rig.http.post(OF_MODEL, json={"input": INPUT}, headers=headers)
            assert refused.status_code == 422
            assert refused.json()["detail"].startswith("- Cancel-After: the earliest end")


async def test_a_list_that_cannot_be_narrowed_down_is_not_given_whole(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        for name in ("created_after", "created_before", "source"):
            refused = await rig.http.get(PREDICTIONS, params={name: "2026-01-01"})
            assert (refused.status_code, name in refused.json()["detail"]) == (422, True)


async def test_a_list_of_files_goes_on_where_it_was_although_files_went_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PAGE_SIZE", 2)
    async with a_gateway(tmp_path) as rig:
        for number in range(5):
            form = {"content": (f"{number}.txt", b"x", "text/plain")}
            assert (await rig.http.post("/replicate/v1/files", files=form)).status_code == 201
        seen: list[str] = []
        path = "/replicate/v1/files"
        while path:
            page = (await rig.http.get(path)).json()
            seen += [each["name"] for each in page["results"]]
            last = page["results"][-1]["id"]
            assert (await rig.http.delete(f"/replicate/v1/files/{last}")).status_code == 204
            path = page["next"]
        assert seen == ["4.txt", "3.txt", "2.txt", "1.txt", "0.txt"]
