"""Secrets reach who they are for: no log and no other answer holds one, at any level."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc.aio
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from quickthaw.scheduler.store.database import parse_url
from quickthaw.v1 import billing_pb2, inference_pb2
from quickthaw.wire.errors import SettingsInvalid
from support.schedulers import Caller
from support.strangers import HOOK_SECRET, SECRET_MODEL, Strangers, two_tenants

APPS = {"allowed_apps": ["tiny", "secret"], "token_expiration": 60}
OF_THE_TEST = ("httpx", "websockets.client")
"""What only the callers' side uses in this process, and logs whole URLs."""
BAD_JSON = b'{"prompt": '


async def test_no_log_at_any_level_and_no_answer_holds_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with two_tenants(tmp_path) as strangers:
        secrets = {
            "admin": strangers.scheduler.admin.key,
            "worker": strangers.scheduler.worker_key,
            "alice": strangers.alice.key,
            "bob": strangers.bob.key,
            "a webhook's URL": HOOK_SECRET,
            "links": (tmp_path / "links.secret").read_text().strip(),
        }
        file_id = strangers.file_id
        tokens = await tokens_of(strangers)
        answers = await all_kinds_of_calls(strangers, tokens)
        secrets |= tokens
    captured = capfd.readouterr()
    logs = "\n".join(
        (
            *(
                f"{record.getMessage()} {vars(record)}"
                for record in caplog.records
                if not record.name.startswith(OF_THE_TEST)
            ),
            captured.out,
            captured.err,
        )
    )
    assert "surface=queue" in logs, "what the gateway logs was not captured"
    assert file_id not in logs, "who reads a log could read the file"
    for name, secret in secrets.items():
        assert secret not in logs, f"{name} is in a log"
        assert all(secret not in answer for answer in answers), f"{name} is in an answer"


async def tokens_of(strangers: Strangers) -> dict[str, str]:
    token = (await strangers.http_alice.post("/rest/tokens", json=APPS)).json()
    upload = (await strangers.http_alice.post("/rest/storage/auth/token", json={})).json()
    secret = (await strangers.http_alice.get("/replicate/v1/webhooks/default/secret")).json()
    rotated = await strangers.scheduler.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(tenant="carol", scopes=[billing_pb2.SCOPE_CALL])
    )
    return {
        "browser token": token,
        "upload token": upload["token"],
        "webhook secret": secret["key"],
        "a new key": rotated.secret,
    }


async def all_kinds_of_calls(strangers: Strangers, tokens: dict[str, str]) -> list[str]:
    """Good and bad, by every surface; the texts of the answers."""
    http, answers = strangers.http_alice, list[httpx.Response]()
    queue = f"/queue/{SECRET_MODEL}"
    for path in (
        *(f"{queue}/requests/{strangers.request_id}{end}" for end in ("", "/status?logs=1")),
        *("/openai/v1/models", "/replicate/v1/predictions", "/replicate/v1/account"),
        *(
            f"/replicate/v1/files/{strangers.file_id}",
            "/health",
            "/openapi.json",
            "/nothing/at/all",
        ),
    ):
        answers.append(await http.get(path))
    answers.append(await http.post(queue, json={"prompt": "x"}))
    answers.append(await http.post(queue, content=BAD_JSON))
    answers.append(await http.post(f"{queue}?fal_webhook=http://127.0.0.1/", json={"prompt": "x"}))
    for authorization in (
        *(f"Key {strangers.alice.key}x", f"Bearer {strangers.alice.key}x", f"Basic {tokens}"),
        *(strangers.alice.key, f"Key {tokens['browser token']}", ""),
    ):
        headers = {"authorization": authorization}
        for path in ("/openai/v1/models", "/replicate/v1/account"):
            answers.append(await strangers.nobody.get(path, headers=headers))
        answers.append(await strangers.nobody.post("/run/test/tiny", json={}, headers=headers))
    token = tokens["browser token"]
    for path in ("/run/test/tiny", "/run/test/tiny/stream", "/run/other/app"):
        answers.append(await strangers.nobody.post(f"{path}?fal_jwt_token={token}", json={}))
    base = strangers.url.replace("http://", "ws://")
    async with connect(f"{base}/run/test/tiny/realtime?fal_jwt_token={token}") as socket:
        await socket.send("no json")
        await socket.recv()
    with pytest.raises(InvalidStatus):
        async with connect(f"{base}/run/other/app/realtime?fal_jwt_token={token}"):
            pass
    upload = {"authorization": f"Bearer {tokens['upload token']}", "content-type": "image/png"}
    answers.append(await strangers.nobody.post("/cdn/files/upload", content=b"x", headers=upload))
    wrong = Caller(strangers.scheduler.address, strangers.alice.key + "x")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wrong.inference.Get(inference_pb2.GetRequest(request_id=strangers.request_id))
    return [*(f"{each.headers} {each.text}" for each in answers), str(refused.value.details())]


@pytest.mark.parametrize("url", ["postgresql//u:pa55word@host/d", "mysql://u:pa55word@host/d"])
def test_a_store_that_is_no_store_is_not_repeated_with_its_password(url: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        parse_url(url)
    assert "pa55word" not in refused.value.message
