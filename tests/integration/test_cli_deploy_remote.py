"""`quickthaw deploy --remote`: uploads that go on where they were, over a network that fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.deploying import Wanted
from quickthaw.cli.errors import UsageFault
from quickthaw.cli.making import Recipe
from quickthaw.cli.remote.deploying import deploy_remotely, files_of, forget_old
from quickthaw.cli.remote.gateway import Answer, RemoteGateway, check, find_key
from quickthaw.cli.remote.uploading import Uploader
from quickthaw.snapshot.remote import RemoteSettings
from quickthaw.wire.errors import (
    BudgetExhausted,
    InvalidArgument,
    NotFound,
    QuickthawError,
    SettingsInvalid,
    SnapshotInvalid,
    StoreUnavailable,
    Unavailable,
)
from support.command_line import Quickthaw
from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig, a_gateway

PART_BYTES = 64 * 1024
HASTY = RemoteSettings(retries=6, backoff_seconds=0.01, backoff_cap_seconds=0.02)
CONTENT = bytes(range(256)) * 256 * 4 + b"the end"
PARTS = 5


class Counting(RemoteGateway):
    """Remembers what was sent."""

    def __init__(self, url: str, key: str = ALICE_KEY) -> None:
        super().__init__(url, key, HASTY)
        self.parts = 0

    def call(self, method: str, path: str, *rest: Any, **more: Any) -> Answer:
        self.parts += method == "PUT"
        return super().call(method, path, *rest, **more)


class Interrupted(Exception):
    pass


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_gateway(tmp_path) as rig:
        yield rig


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.dat"
    path.write_bytes(CONTENT)
    return path


def uploader(gateway: RemoteGateway, file: Path) -> Uploader:
    return Uploader(gateway, ALICE_KEY, file.parent / "memory", PART_BYTES)


async def sent(url: str, file: Path) -> tuple[str, int]:
    """Uploaded by a new process's uploader: the URL, and how many parts went."""
    with Counting(url) as gateway:
        told: list[int] = []
        found = await asyncio.to_thread(uploader(gateway, file).upload, file, told.append)
        assert sum(told) == len(CONTENT), "a bar must reach its end"
        return found, gateway.parts


async def interrupted(url: str, file: Path) -> int:
    """How many parts went before it ended."""
    left = 2

    def on_bytes(_: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Interrupted

    with Counting(url) as gateway:
        with pytest.raises(Interrupted):
            await asyncio.to_thread(uploader(gateway, file).upload, file, on_bytes)
        return gateway.parts


async def test_an_interrupted_upload_goes_on_where_it_was(rig: Rig, file: Path) -> None:
    url = rig.listening.public_url
    before = await interrupted(url, file)
    assert 2 <= before <= PARTS
    found, after = await sent(url, file)
    assert before + after == PARTS
    assert (await rig.http.get(found)).content == CONTENT
    assert await sent(url, file) == (found, 0), "what is there is not sent again"


async def test_where_nothing_can_be_remembered_a_file_is_sent_all_the_same(
    rig: Rig, file: Path
) -> None:
    (file.parent / "memory").touch()
    found, parts = await sent(rig.listening.public_url, file)
    assert parts == PARTS
    assert (await rig.http.get(found)).content == CONTENT


async def test_what_the_gateway_has_forgotten_is_sent_anew(
    rig: Rig, file: Path, tmp_path: Path
) -> None:
    url = rig.listening.public_url
    first, _ = await sent(url, file)
    record = next((tmp_path / "blobs").rglob("file.json"))
    record.unlink()
    second, parts = await sent(url, file)
    assert (second != first, parts) == (True, PARTS)


async def test_a_ticket_that_has_expired_is_replaced(rig: Rig, file: Path) -> None:
    url = rig.listening.public_url
    await interrupted(url, file)
    (memory,) = (file.parent / "memory").glob("*.json")
    upload = json.loads(memory.read_text())
    memory.write_text(json.dumps({**upload, "ticket": "expired"}))
    found, _ = await sent(url, file)
    assert (await rig.http.get(found)).content == CONTENT


def change(file: Path) -> None:
    file.write_bytes(CONTENT[::-1])
    os.utime(file, ns=(1, 1))


async def test_another_content_is_another_upload(rig: Rig, file: Path) -> None:
    url = rig.listening.public_url
    await interrupted(url, file)
    change(file)
    found, parts = await sent(url, file)
    assert parts == PARTS
    assert (await rig.http.get(found)).content == CONTENT[::-1]


async def test_nobody_else_can_end_an_upload(rig: Rig, file: Path) -> None:
    await interrupted(rig.listening.public_url, file)
    memory = file.parent / "memory"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in memory.iterdir()} == {0o600}


def test_what_is_remembered_of_long_ago_is_forgotten(tmp_path: Path) -> None:
    for name, at in (("old", 0.0), ("new", 40 * 86_400.0)):
        (tmp_path / f"{name}.json").touch()
        os.utime(tmp_path / f"{name}.json", (at, at))
    forget_old(tmp_path, 41 * 86_400.0)
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]


@contextlib.asynccontextmanager
async def a_bad_line(rig: Rig, cuts: int) -> AsyncIterator[str]:
    """The gateway by a line that breaks so many connections after a few thousand bytes."""
    left = cuts

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: float) -> None:
        with contextlib.suppress(ConnectionError):
            while most > 0 and (data := await reader.read(4096)):
                writer.write(data)
                await writer.drain()
                most -= len(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        most = 20_000 if left > 0 else float("inf")
        left -= 1
        address = rig.listening.http
        inner, outer = await asyncio.open_connection(address.host, address.port)
        await asyncio.gather(pump(reader, outer, most), pump(inner, writer, float("inf")))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_line_that_breaks_again_and_again_costs_parts_and_no_more(
    rig: Rig, file: Path
) -> None:
    async with a_bad_line(rig, cuts=4) as url:
        found, _ = await sent(url, file)
        assert found.startswith(url), "as the caller reaches it, whatever the gateway's own name"
    path = found.removeprefix(url)
    assert (await rig.http.get(path)).content == CONTENT


async def test_a_gateway_that_is_gone_is_given_up(rig: Rig, file: Path) -> None:
    async with a_bad_line(rig, cuts=1_000) as url:
        with pytest.raises(StoreUnavailable, match="gave up after"):
            await sent(url, file)


async def test_a_pickle_by_another_name_is_refused_in_the_gateways_words(
    rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"\x80\x04\x95" + bytes(5000))
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="this is a pickle"):
            await sent(rig.listening.public_url, path)


# ---- what is sent --------------------------------------------------------------------------------


def test_of_a_folder_only_what_is_packed_is_sent(tmp_path: Path) -> None:
    wanted = {
        *("model_index.json", "unet/config.json", "unet/x.safetensors", "vae/v.fp16.safetensors"),
        *("tokenizer/merges.txt", "tokenizer/spiece.model"),
    }
    others = {
        *("README.md", "whole.safetensors", "unet/x.bin", "unet/x.fp16.safetensors"),
        *(".git/config.json", "vae/v.onnx"),
    }
    for name in wanted | others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_of(tmp_path).keys() == wanted


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("style.ckpt", SnapshotInvalid, "pickle"),
        ("folder", SnapshotInvalid, "no model_index.json"),
        ("gone.safetensors", UsageFault, "no such file"),
    ],
)
def test_what_need_not_be_sent_to_be_refused_is_not_sent(
    tmp_path: Path, name: str, kind: type[Exception], said: str
) -> None:
    (tmp_path / "style.ckpt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(kind) as caught:
        files_of(tmp_path / name)
    assert said in str(vars(caught.value)["message"])


class Played(RemoteGateway):
    """A gateway whose deployments a test plays."""

    def __init__(self, *ends: Mapping[str, Any], lose_the_answer: bool = False) -> None:
        super().__init__("http://gateway", "k")
        self.asked: list[Any] = []
        self._ends = list(ends)
        self._lose = lose_the_answer

    def call(self, method: str, path: str, *rest: Any, **more: Any) -> Answer:
        told: Any
        match method, path:
            case "POST", "/v1/deployments":
                self.asked.append(rest[0])
                if self._lose:
                    raise Unavailable("the line broke")
                told = a_deployment()
            case "GET", "/v1/deployments":
                told = {"deployments": [a_deployment(id="dep_0", name="me/other"), a_deployment()]}
            case _:
                assert path == "/v1/deployments/dep_1"
                told = self._ends.pop(0)
        return Answer(200, {}, json.dumps(told).encode())


class Sent(Uploader):
    def __init__(self) -> None:
        pass

    def upload(self, path: Path, on_bytes: Callable[[int], None]) -> str:
        return f"http://gateway/files/an-id/{path.name}"


def a_deployment(**more: Any) -> dict[str, Any]:
    progress = {"done_bytes": 0, "total_bytes": 0}
    files = [{"id": "an-id", "path": "weights.dat"}]
    facts = {"id": "dep_1", "name": "me/x", "state": "packing", "step": "", "progress": progress}
    return {**facts, "finished_at": None, "files": files, "self_test": None, **more}


def deployed(gateway: Played, file: Path, **recipe: Any) -> Mapping[str, Any]:
    wanted = Wanted(
        file, "me/x", Recipe(**recipe), defaults=("num_inference_steps=4", "image_size=64x32")
    )
    done = deploy_remotely(gateway, Sent(), wanted, ("prompt=a fox",), None, file.parent)
    return done.deployment


@pytest.mark.parametrize("lost", [False, True])
def test_a_deployment_is_asked_for_once_even_if_its_answer_is_lost(file: Path, lost: bool) -> None:
    ready = a_deployment(state="ready", finished_at="now", version=1)
    gateway = Played(a_deployment(step="packing unet"), ready, lose_the_answer=lost)
    assert deployed(gateway, file, base="shapes")["version"] == 1
    (asked,) = gateway.asked
    assert asked == {
        "name": "me/x",
        "base": "shapes",
        "defaults": {"num_inference_steps": 4, "image_size": {"width": 64, "height": 32}},
        "test": {"prompt": "a fox"},
        "files": [{"url": "http://gateway/files/an-id/weights.dat", "path": "weights.dat"}],
    }


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [
        (
            {"state": "failed", "error": {"type": "budget_exhausted", "message": "no money"}},
            BudgetExhausted,
            "dep_1 (me/x): no money",
        ),
        ({"state": "cancelled", "error": None}, InvalidArgument, "it was cancelled"),
    ],
)
def test_what_a_deployment_failed_with_is_what_the_command_fails_with(
    file: Path, end: dict[str, Any], kind: type[QuickthawError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        deployed(Played(a_deployment(finished_at="now", **end)), file)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("status", "detail", "kind", "said"),
    [
        (422, [{"loc": ["body", "name"], "msg": "is required"}], InvalidArgument, "name: is req"),
        (404, "no such thing", NotFound, "no such thing"),
        (500, None, Unavailable, "answered 500"),
    ],
)
def test_a_gateways_refusal_keeps_its_words(
    status: int, detail: object, kind: type[QuickthawError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        check(Answer(status, {}, json.dumps({"detail": detail} if detail else {}).encode()))


def test_a_local_key_is_for_the_platform_of_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("qt_admin\n")
    facts = {"grpc": "h:1", "http": "http://h:2", "metrics": "", "pid": 1}
    run_file = {**facts, "key_file": str(tmp_path / "admin.key")}
    (tmp_path / "run.json").write_text(json.dumps(run_file))
    assert find_key("http://h:2/", tmp_path, {}) == "qt_admin"
    assert find_key("http://h:2", tmp_path, {"QUICKTHAW_KEY": "qt_mine"}) == "qt_mine"
    with pytest.raises(SettingsInvalid, match="QUICKTHAW_KEY"):
        find_key("http://elsewhere", tmp_path, {})


@pytest.mark.parametrize("flag", ["--owner=me", "--to=s3://x", "--no-self-test"])
def test_what_operators_decide_is_refused_with_remote(
    quickthaw: Quickthaw, file: Path, flag: str
) -> None:
    words = ("deploy", str(file), "--name", "me/x", "--remote", "http://127.0.0.1:1", flag)
    answer = quickthaw(*words)
    assert answer.status == 2
    assert flag.partition("=")[0] in answer.err
