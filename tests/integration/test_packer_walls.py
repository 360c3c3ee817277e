"""The walls around the process that reads a tenant's files, tried by one that means harm."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.making import Recipe
from quickthaw.cli.packer import landlock
from quickthaw.cli.packer.isolation import Rooms, Wall, child_environment
from quickthaw.cli.packer.order import Order, rooms_from
from quickthaw.cli.packer.settings import PackerSettings, parse_settings
from quickthaw.cli.packer.staging import Staging
from quickthaw.cli.packer.walls import find_walls, secrets_of
from quickthaw.cli.up.bundled import find_snapshot
from quickthaw.snapshot import SnapshotStore
from quickthaw.wire.errors import FailedPrecondition, SettingsInvalid

needs_landlock = pytest.mark.skipif(
    landlock.version() < landlock.ABI_MIN,
    reason=f"this kernel has Landlock {landlock.version()}; Linux 5.19 brings {landlock.ABI_MIN}",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

HARM = """
import ctypes, json, os, signal, socket, sys
from quickthaw.cli.packer import child, isolation
from quickthaw.cli.packer import landlock, system_calls

data, work, outside, port = sys.argv[1:5]
if "user" in sys.argv[5:]:  # as on a kernel with no other wall
    landlock.version = lambda: 0
    isolation.refuse_system_calls = lambda: (_ for _ in ()).throw(OSError())

def read(path):
    with open(path) as file:
        return file.read()

def write(path):
    with open(path, "w") as file:
        file.write("mine now")

def through(make, name):
    link = f"{work}/home/{name}"
    make(f"{data}/admin.key", link)
    return read(link)

def connect(family, address):
    with socket.socket(family) as each:
        each.settimeout(5)
        each.connect(address)

def executed():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise PermissionError("not executed")

def untied():
    if ctypes.CDLL(None).prctl(1, 0) != 0:
        raise PermissionError("still tied")

def privileged():
    os.setuid(0)

HARMS = {
    "read the admin's key": lambda: read(f"{data}/admin.key"),
    "list the data directory": lambda: os.listdir(data),
    "read the CA's key": lambda: read(f"{data}/tls/ca.key"),
    "read another's snapshot": lambda: read(f"{data}/snapshots/components/x.safetensors"),
    "replace another's snapshot": lambda: write(f"{data}/snapshots/components/x.safetensors"),
    "delete another's snapshot": lambda: os.unlink(f"{data}/snapshots/components/x.safetensors"),
    "move another's snapshot": lambda: os.rename(
        f"{data}/snapshots/components/x.safetensors", f"{work}/home/x"
    ),
    "read another's upload": lambda: read(f"{data}/blobs/uploads/x"),
    "change the base": lambda: write(f"{work}/base/x"),
    "replace the base": lambda: os.replace(f"{work}/files/x", f"{work}/base/x"),
    "change what was uploaded": lambda: write(f"{work}/files/x"),
    "write elsewhere": lambda: write(f"{outside}/x"),
    "a link to a key": lambda: through(os.symlink, "soft"),
    "a second name for a key": lambda: through(os.link, "hard"),
    "a path through its own folders": lambda: read(f"{work}/home/../../../admin.key"),
    "read its parent's environment": lambda: read(f"/proc/{os.environ['PACKER']}/environ"),
    "signal its parent": lambda: os.kill(int(os.environ["PACKER"]), 0),
    "connect to a port": lambda: connect(socket.AF_INET, ("127.0.0.1", int(port))),
    "connect to a socket in a folder": lambda: connect(socket.AF_UNIX, f"{outside}/socket"),
    "execute a program": executed,
    "outlive its parent": untied,
    "become root again": privileged,
}

def evil(order):
    done = {}
    for name, harm in HARMS.items():
        try:
            harm()
            done[name] = "done"
        except Exception as error:
            done[name] = type(error).__name__
    done["work"] = []
    for path in ("home/x", "store/x"):
        write(f"{work}/{path}")
        os.rename(f"{work}/{path}", f"{work}/store/kept")
        done["work"].append(path)
    read(f"{work}/files/x"), read(f"{work}/base/x")
    return json.dumps(done)

child.packed = evil
child.main()
"""


class House:
    """A data directory with secrets, one deployment's folder in it, and what lies outside."""

    def __init__(self, folder: Path, work: Path, user: str = "") -> None:
        self.data, self.outside = folder / "data", folder / "outside"
        self.data.mkdir(mode=0o700)
        self.outside.mkdir()
        for name in (
            *("admin.key", "tls/ca.key", "blobs/uploads/x"),
            "snapshots/components/x.safetensors",
        ):
            (self.data / name).parent.mkdir(parents=True, exist_ok=True)
            (self.data / name).write_text("secret")
        self.staging = Staging(work / "dep_1", user)
        self.staging.prepare()
        for folder in (self.staging.files, self.staging.base):
            (folder / "x").write_text("to read")
        self.settings = PackerSettings(
            scheduler="127.0.0.1:1",
            key_file=self.data / "admin.key",
            blob_store=str(self.data / "blobs"),
            snapshots=self.data / "snapshots",
            work_dir=work,
            pack_user=user,
        )

    def harmed(self, *flags: str) -> dict[str, Any]:
        """What became of each harm, done by the process that packs."""
        order = Order(
            source=str(self.staging.files),
            hidden=(),
            snapshots=str(self.staging.store),
            finished="",
            bases=str(self.staging.base),
            base_digest="",
            recipe=Recipe(),
            data_bytes_max=1 << 34,
            rooms=self.staging.rooms,
        )
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.socket(socket.AF_UNIX) as inner,
        ):
            inner.bind(str(self.outside / "socket"))
            inner.listen()
            words = (self.data, self.staging.root, self.outside, server.getsockname()[1], *flags)
            home = self.staging.home
            done = subprocess.run(
                [sys.executable, "-P", "-c", HARM, *map(str, words)],
                input=order.to_json(),
                env={**child_environment(os.environ, home), "PACKER": str(os.getpid())},
                cwd=home,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["is"] == "packed", answer
        found: dict[str, Any] = json.loads(answer["digest"])
        assert found.pop("work") == ["home/x", "store/x"]
        return found

    def walls(self, *, require_walls: bool = False) -> tuple[Wall, ...]:
        return asyncio.run(find_walls(replace(self.settings, require_walls=require_walls)))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, tmp_path / "data" / "packer")


@needs_landlock
def test_a_process_that_means_harm_reaches_nothing_but_its_own_folders(house: House) -> None:
    harmed = house.harmed()
    if os.geteuid() == 0:
        del harmed["become root again"]  # it is, and gains nothing from it
    assert "done" not in harmed.values(), harmed
    secrets = [path for path in house.data.rglob("*") if path.is_file()]
    within = house.staging.root
    assert all(path.read_text() == "secret" for path in secrets if within not in path.parents)
    assert [path.name for path in house.outside.iterdir()] == ["socket"]


@needs_landlock
def test_a_packer_finds_by_trying_which_walls_stand(house: House) -> None:
    walls = house.walls()
    assert {Wall.FILES, Wall.NETWORK, Wall.PRIVILEGES, Wall.SYSTEM_CALLS} <= set(walls)
    assert Wall.USER not in walls
    assert not (house.settings.work_dir / "probe").exists()


@needs_landlock
def test_a_secret_that_lies_among_the_libraries_is_told_and_refused(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Landlock cannot take back what it must allow: everything below a folder of modules."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "data"))
    assert Wall.FILES not in house.walls()
    with pytest.raises(FailedPrecondition, match="no wall for files") as caught:
        house.walls(require_walls=True)
    assert str(house.data / "admin.key") in caught.value.message


def test_all_that_a_tenant_must_not_see_is_tried(house: House) -> None:
    tried = secrets_of(house.settings)
    assert {path.name for path in tried} == {"admin.key", "snapshots", "blobs", "packer"}
    remote = replace(house.settings, blob_store="s3://bucket/blobs")
    assert {path.name for path in secrets_of(remote)} == {"admin.key", "snapshots", "packer"}


@pytest.fixture
def open_house() -> Iterator[House]:
    """Below a folder that every user can pass, as another user's process needs it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        (Path(folder) / "work").mkdir(mode=0o711)
        yield House(Path(folder), Path(folder) / "work", "nobody")


@needs_root
def test_another_user_alone_keeps_the_platforms_files_from_it(open_house: House) -> None:
    """Where the kernel has neither Landlock nor a filter of system calls."""
    harmed = open_house.harmed("user")
    allowed = {"execute a program", "connect to a socket in a folder", "outlive its parent"}
    done = {name for name, how in harmed.items() if how == "done"}
    assert done <= allowed, harmed


@needs_root
def test_a_user_that_cannot_reach_its_folders_is_refused_by_name(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    house = House(tmp_path, tmp_path / "data" / "packer", "nobody")
    with pytest.raises(SettingsInvalid, match=r"--pack-user nobody: .* is closed to that user"):
        house.walls()


@needs_root
def test_what_another_user_shall_read_is_copied_if_its_mode_forbids(tmp_path: Path) -> None:
    bundled = find_snapshot()
    assert bundled is not None
    store = SnapshotStore(shutil.copytree(bundled, tmp_path / "store"))
    base = store.open(store.only())
    (first, *_) = base.manifest.files()
    (store.root / first.path).chmod(0o600)
    staging = Staging(tmp_path / "dep_1", "nobody")
    staging.prepare()
    staging.bring_base(base)
    staging.bring_base(base)  # as another try does
    brought = staging.base / first.path
    assert brought.stat().st_mode & 0o777 == 0o644
    assert (store.root / first.path).stat().st_mode & 0o777 == 0o600
    links = [path.stat().st_nlink for path in staging.base.rglob("*") if path.is_file()]
    assert sorted(set(links)) == [1, 2]
    assert staging.home.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    shutil.rmtree(staging.root)


def test_a_user_that_is_none_is_refused_at_the_start() -> None:
    words = ("--scheduler=h:1", "--key-file=k", "--blob-store=b", "--snapshots=s", "--work-dir=w")
    with pytest.raises(SettingsInvalid, match="there is no such user"):
        parse_settings([*words, "--pack-user", "nobody-of-that-name"])


def test_rooms_survive_the_way_to_the_child() -> None:
    rooms = Rooms(("a", "b"), ("c",), "nobody")
    text = json.dumps({"readable": ["a", "b"], "writable": ["c"], "user": "nobody"})
    assert rooms_from(json.loads(text)) == rooms
