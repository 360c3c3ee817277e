"""The packer's parts: what it reads of a gateway's uploads, and what its child process goes
without."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from quickthaw.cli.making import Recipe
from quickthaw.cli.packer import child, packing, uploads
from quickthaw.cli.packer.isolation import Rooms, child_environment
from quickthaw.cli.packer.order import Order, Packed, Packing, Refused, answer_line, parse_answer
from quickthaw.cli.packer.packing import pack
from quickthaw.cli.packer.settings import parse_settings
from quickthaw.cli.packer.trial import test_values as values_for
from quickthaw.client import DeploymentFile, JsonObject, JsonValue, Model
from quickthaw.gateway.storage import Expiry, StoredFile, Uploads, open_blobs
from quickthaw.gateway.storage.lifecycle import Lifecycle
from quickthaw.wire.blob_store import open_blob_store
from quickthaw.wire.errors import (
    InvalidArgument,
    InvalidInput,
    QuickthawError,
    ResourceExhausted,
    SettingsInvalid,
    SnapshotInvalid,
)
from support.patience import PATIENCE_SECONDS

DATA = bytes(range(256)) * 100


class Store:
    """A gateway's uploads, and the packer's view of them."""

    def __init__(self, folder: Path) -> None:
        blobs = open_blobs(str(folder))
        self.seconds = 1_800_000_000.0
        self.gateway = Uploads(
            *(blobs, Expiry(blobs), b"secret"),
            file_bytes_max=1 << 30,
            tenant_bytes_max=1 << 40,
            partial_seconds=3600,
        )
        self.packer = open_blob_store(str(folder))

    async def bring(self, tenant: str = "me", seconds: float | None = None) -> StoredFile:
        async def half(start: int) -> AsyncIterator[bytes]:
            yield DATA[start : start + len(DATA) // 2]

        ticket = self.gateway.ticket(tenant, "x.dat", "x/y", Lifecycle(seconds))
        middle = len(DATA) // 2
        tags = [
            (number, await self.gateway.store_part(ticket, number, half(start), None))
            for number, start in ((1, 0), (2, middle))
        ]
        return await self.gateway.complete(ticket, tags)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "blobs")


async def test_what_a_gateway_keeps_in_parts_a_packer_reads_whole(
    store: Store, tmp_path: Path
) -> None:
    stored = await store.bring()
    file = DeploymentFile("unet/x.dat", stored.file_id, stored.size_bytes)
    record = await uploads.find(store.packer, "me", file)
    told: list[int] = []
    digest = await uploads.fetch(store.packer, record, tmp_path / "there" / "x.dat", told.append)
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert (tmp_path / "there" / "x.dat").read_bytes() == DATA
    assert sum(told) == len(DATA)


@pytest.mark.parametrize(
    ("tenant", "seconds", "file_id", "size_bytes", "said"),
    [
        ("rival", None, None, len(DATA), "no upload"),
        ("me", -1.0, None, len(DATA), "no upload"),
        ("me", None, "0" * 48, len(DATA), "no upload"),
        ("me", None, "../../../../etc/passwd", len(DATA), "no upload"),
        ("me", None, None, len(DATA) + 1, "bytes"),
    ],
)
async def test_what_is_anothers_expired_gone_or_changed_is_not_read(
    store: Store,
    tenant: str,
    seconds: float | None,
    file_id: str | None,
    size_bytes: int,
    said: str,
) -> None:
    stored = await store.bring(seconds=seconds)
    file = DeploymentFile("x.dat", file_id or stored.file_id, size_bytes)
    with pytest.raises(InvalidArgument, match=said):
        await uploads.find(store.packer, tenant, file)


def test_the_process_that_reads_strangers_files_inherits_no_secret(tmp_path: Path) -> None:
    secrets = {
        "QUICKTHAW_KEY": "qt_x",
        "QUICKTHAW_STORE": "postgresql://user:password@host/",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HF_TOKEN": "x",
    }
    given = child_environment({**secrets, "PATH": "/bin"}, tmp_path)
    assert not secrets.keys() & given.keys()
    assert given["PATH"] == "/bin"
    assert (given["HOME"], given["HF_HUB_OFFLINE"]) == (str(tmp_path), "1")


def test_a_process_that_left_the_network_reaches_nobody_and_still_writes_files(
    tmp_path: Path,
) -> None:
    program = (
        "import socket, sys, pathlib\n"
        "from quickthaw.cli.packer.isolation import leave_network, limit_memory\n"
        "left = leave_network()\n"
        "limit_memory(1 << 34)\n"
        f"pathlib.Path({str(tmp_path / 'made')!r}).write_text('here')\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)\n"
        "    reached = True\n"
        "except OSError:\n"
        "    reached = False\n"
        "print(int(left), int(reached))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", program, port], capture_output=True, text=True, check=True
        )
    left, reached = (word == "1" for word in done.stdout.split())
    # Where the system lets nobody leave it, the process must know that it has not.
    assert reached is not left
    assert (tmp_path / "made").read_text() == "here"


def an_order(tmp_path: Path, source: Path, data_bytes_max: int = 1 << 34) -> Order:
    return Order(
        source=str(source),
        hidden=(str(tmp_path),),
        snapshots=str(tmp_path / "snapshots"),
        finished=str(tmp_path / "snapshots" / "finished.json"),
        bases=str(tmp_path / "snapshots"),
        base_digest="",
        recipe=Recipe(),
        data_bytes_max=data_bytes_max,
        rooms=Rooms((), (str(tmp_path),)),
    )


async def packed(
    tmp_path: Path, source: Path, *, seconds_max: float = 120.0, data_bytes_max: int = 1 << 34
) -> QuickthawError:
    with pytest.raises(QuickthawError) as caught:
        await pack(
            an_order(tmp_path, source, data_bytes_max), tmp_path, seconds_max, lambda _: None
        )
    return caught.value


async def test_packing_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    refused = await packed(tmp_path, tmp_path / "gone", seconds_max=0.01)
    assert isinstance(refused, ResourceExhausted)
    assert "longer than 0.01 s" in refused.message


async def test_packing_that_needs_too_much_memory_says_so(tmp_path: Path) -> None:
    refused = await packed(tmp_path, tmp_path / "gone", data_bytes_max=40 << 20)
    assert isinstance(refused, ResourceExhausted)
    assert "memory" in refused.message


async def test_what_the_child_refuses_with_is_raised_without_the_packers_folders(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "weights.txt").write_text("none")
    refused = await packed(tmp_path, folder)
    assert isinstance(refused, SnapshotInvalid)
    assert "no model_index.json" in refused.message
    assert str(tmp_path) not in refused.message


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder, and a store with its snapshot."""
    from quickthaw.snapshot.pack import pack as pack_snapshot
    from support.tiny_models import tiny_sd

    folder = tmp_path_factory.mktemp("tiny")
    base = tiny_sd(0)
    base.save_pretrained(folder / "sd")
    (folder / "digest").write_text(pack_snapshot(base, folder / "store"))
    return folder


@pytest.mark.parametrize(
    ("source", "defaults", "kind", "said"),
    [
        ("a pickle", {}, SnapshotInvalid, "pickle"),
        ("a folder", {"colour": "red"}, InvalidArgument, "defaults.colour"),
        ("a folder", {"num_inference_steps": 10**9}, SnapshotInvalid, "num_inference_steps"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    defaults: dict[str, JsonValue],
    kind: type[QuickthawError],
    said: str,
) -> None:
    path = tiny / "sd"
    if source == "a pickle":
        path = tmp_path / "style.safetensors"
        path.write_bytes(b"\x80\x04\x95" + bytes(100))
    order = replace(
        an_order(tiny, path),
        bases=str(tiny / "store"),
        base_digest=(tiny / "digest").read_text(),
        defaults=defaults,
    )
    with pytest.raises(kind, match=said):
        child.packed(order)
    assert parse_answer(capsys.readouterr().out.encode()) == Packing("looking at the files", 0, 0)


@pytest.mark.parametrize(
    "answer", [Packing("unet", 1, 2), Packed("ab" * 32), Refused("STORAGE_FULL", 'a "quote"\n')]
)
def test_answers_survive_the_pipe(answer: Packing | Packed | Refused) -> None:
    line = answer_line(answer)
    assert "\n" not in line
    assert parse_answer(line.encode() + b"\n") == answer


@pytest.mark.parametrize(
    "line", [b"", b"loading...\n", b"[1]\n", b'{"is": "packed"}\n', b'{"is": 1}\n', b"\xff\n"]
)
def test_what_libraries_print_is_no_answer(line: bytes) -> None:
    assert parse_answer(line) is None


def test_an_order_survives_the_pipe(tmp_path: Path) -> None:
    order = an_order(tmp_path, tmp_path / "x")
    assert Order.from_json(order.to_json()) == order


def a_drawing_model(schema: JsonObject) -> Model:
    return Model("me/x", "sd", "", "", (), 0, schema)


def test_a_self_test_asks_for_what_is_plain_and_says_what_it_cannot_make_up() -> None:
    schema: JsonObject = {"properties": {"prompt": {}, "poem": {}}, "required": ["poem"]}
    model = a_drawing_model(schema)
    with pytest.raises(InvalidInput, match="poem"):
        values_for(model, {})
    values = values_for(model, {"poem": "x", "prompt": "mine"})
    assert values == {"poem": "x", "prompt": "mine"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--lease-seconds", "5", "--report-seconds", "2"), "--report-seconds"),
        (("--pack-bytes-max", "0"), "--pack-bytes-max"),
        (("--wait-seconds", "31"), "--wait-seconds"),
    ],
)
def test_bounds_that_cannot_hold_are_refused_by_name(flags: tuple[str, ...], said: str) -> None:
    needed = {"scheduler": "h:1", "key-file": "k", "blob-store": "b", "snapshots": "s"}
    words = [f"--{name}={value}" for name, value in {**needed, "work-dir": "w"}.items()]
    with pytest.raises(SettingsInvalid, match=said):
        parse_settings([*words, *flags])


def test_every_limit_of_the_packer_is_a_flag() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quickthaw.cli.packer", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    limits = ("--pack-bytes-max", "--pack-seconds-max", "--test-seconds-max", "--keep-seconds")
    for flag in (*limits, "--push", "--pack-user", "--require-walls"):
        assert flag in done.stdout


LEAVES_A_CHILD = """
import subprocess, sys
print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""


async def test_what_a_packing_process_leaves_behind_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    closed: list[asyncio.Task[int]] = []

    async def start(module: str, home: Path) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-c", LEAVES_A_CHILD)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdout is not None
        left.append(int(await process.stdout.readline()))
        # Asked before its end, this waits for the pipes too.
        closed.append(asyncio.create_task(process.wait()))
        return process

    monkeypatch.setattr(packing, "start", start)
    monkeypatch.setattr(packing, "SAID_SECONDS_MAX", 0.1)
    try:
        with pytest.raises(ResourceExhausted, match="the process that packed"):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await pack(an_order(tmp_path, tmp_path), tmp_path, PATIENCE_SECONDS, lambda _: None)
    finally:
        os.kill(left[0], signal.SIGKILL)
        await closed[0]
