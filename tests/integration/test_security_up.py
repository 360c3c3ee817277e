"""A whole platform at its most talkative: no secret is in a log, a metric, an error or a command
line that other users of the machine can read."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from quickthaw.client import Client
from quickthaw.wire.errors import Unauthenticated
from support.platform import Platform, running_platform
from support.store_servers import PostgresServer

MODEL = "quickthaw/shapes"
PASSWORD = "pa55word-of-the-store"
BUCKET_SECRET = "s3cr3t-of-the-bucket"
HOOK_SECRET = "hook-t0ken"
PROXY_SECRET = base64.b64encode(b"somebody:pr0xy-passw0rd").decode()
PROMPT = "what nobody else shall read"
FILE = b"bytes of a private picture" * 4
MADE_UP = "qt_000000000000_" + "Zz" * 21 + "Z"


@pytest.fixture
def platform(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", BUCKET_SECRET)
    url = postgres.new_database().replace("quickthaw@", f"quickthaw:{PASSWORD}@")
    monkeypatch.setenv("QUICKTHAW_STORE", url)
    with running_platform(tmp_path / "data", "--log-level", "debug") as running:
        yield running


def test_secrets_are_where_they_belong_and_nowhere_else(
    platform: Platform, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        Client(grpc=platform.ready["grpc"], key=platform.key) as admin,
        httpx.Client(base_url=platform.ready["http"], timeout=60) as http,
    ):
        key = admin.keys.create("alice", label="web").secret
        http.headers["authorization"] = f"Key {key}"
        secrets = {
            "the admin's key": platform.key,
            "the workers' key": (platform.data_dir / "worker.key").read_text().strip(),
            "the links' secret": (platform.data_dir / "links.secret").read_text().strip(),
            "the authority's key": (platform.data_dir / "tls" / "ca.key").read_text()[40:100],
            "a caller's key": key,
            "a key that is none": MADE_UP,
            "the store's password": PASSWORD,
            "the bucket's secret": BUCKET_SECRET,
            "a webhook's token": HOOK_SECRET,
            "a proxy's password": PROXY_SECRET,
            "a data: URI": base64.b64encode(FILE).decode(),
        }
        secrets |= tokens(http)
        told = answers(platform, http, secrets)
        metrics = [httpx.get(url).text for url in metrics_urls(platform)]
        command_lines = every_command_line()
    platform.stop()
    captured = capfd.readouterr()
    logs = "".join(path.read_text() for path in (platform.data_dir / "logs").rglob("*.log*"))
    assert "DEBUG" in logs, "they were not as talkative as they can be"
    assert "surface=run" in logs
    assert f"up --data-dir {platform.data_dir}" in command_lines
    places = {
        "a log": logs,
        "what `up` says": captured.out + captured.err,
        "an error": "".join(told),
        "a metric": "".join(metrics),
        "a command line": command_lines,
    }
    found = [
        f"{secret} is in {place}"
        for place, text in places.items()
        for secret, value in secrets.items()
        if value in text
    ]
    assert found == []
    assert PROMPT not in logs, "what callers ask for is theirs"


def tokens(http: httpx.Client) -> dict[str, str]:
    apps = {"allowed_apps": ["shapes"], "token_expiration": 600}
    initiated = http.post("/rest/storage/upload/initiate", json={"file_name": "a.png"}).json()
    secret = http.get("/replicate/v1/webhooks/default/secret").json()["key"]
    return {
        "a browser's token": http.post("/rest/tokens", json=apps).json(),
        "an upload's token": http.post("/rest/storage/auth/token", json={}).json()["token"],
        "an upload's ticket": initiated["upload_url"].rpartition("/")[2],
        "a webhook's secret": secret.removeprefix("whsec_"),
    }


def answers(platform: Platform, http: httpx.Client, secrets: dict[str, str]) -> list[str]:
    """To calls that go wrong, each with some secret in it; one that goes right is among them."""
    prompt = {"prompt": PROMPT, "num_inference_steps": 1}
    token, ticket = secrets["a browser's token"], secrets["an upload's ticket"]
    wrong = f"Key {MADE_UP}"
    uri = f"data:image/png;base64,{secrets['a data: URI']}"
    ran = http.post(f"/run/{MODEL}", json=prompt)
    assert ran.status_code == 200, ran.text
    hook = f"http://127.0.0.1:9/hook?token={HOOK_SECRET}"
    queued = http.post(f"/queue/{MODEL}", params={"fal_webhook": hook}, json=prompt)
    assert queued.status_code == 200, queued.text
    bad = [
        http.post(f"/run/{MODEL}", json={**prompt, "image_url": uri}),
        http.post(f"/run/{MODEL}", content=b'{"prompt": ' + PROMPT.encode()),
        http.post(f"/run/{MODEL}", json=prompt, headers={"authorization": wrong}),
        http.post(f"/run/{MODEL}", json=prompt, headers={"authorization": f"Bearer {MADE_UP}"}),
        http.post(f"/run/other/app?fal_jwt_token={token}", json=prompt),
        http.post(f"/run/{MODEL}/stream?fal_jwt_token={token}x", json=prompt),
        http.post("/openai/v1/images/generations", json={"model": "nobody/has", "prompt": PROMPT}),
        http.post("/replicate/v1/predictions", json={"version": MODEL, "input": {"image": uri}}),
        http.put(f"/files/upload/{ticket}x", content=FILE),
        http.post("/nothing/at/all", headers={"authorization": f"Basic {PROXY_SECRET}"}),
    ]
    assert all(400 <= each.status_code < 500 for each in bad), [each.status_code for each in bad]
    base = platform.ready["http"].replace("http", "ws", 1)
    with pytest.raises(InvalidStatus):
        connect(f"{base}/run/other/app/realtime?fal_jwt_token={token}")
    with (
        Client(grpc=platform.ready["grpc"], key=MADE_UP) as stranger,
        pytest.raises(Unauthenticated) as refused,
    ):
        stranger.workers.list()
    return [*(each.text for each in bad), connected(platform), str(refused.value)]


def connected(platform: Platform) -> str:
    """What a CONNECT with a proxy's password is told, inside and outside of what is served."""
    host, _, port = platform.ready["http"].removeprefix("http://").rpartition(":")
    told = b""
    for target in ("fal.run:443", "bank.example:443"):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
                f"Proxy-Authorization: Basic {PROXY_SECRET}\r\n\r\n".encode()
            )
            told += connection.recv(65536)
    return told.decode("latin-1")


def metrics_urls(platform: Platform) -> list[str]:
    groups = json.loads((platform.data_dir / "prometheus-targets.json").read_text())
    targets = [target for group in groups for target in group["targets"]]
    assert len(targets) >= 3, "scheduler, gateway and worker"
    return [f"http://{target}/metrics" for target in targets]


def every_command_line() -> str:
    """As `ps` shows them to everybody."""
    lines: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(lines)
