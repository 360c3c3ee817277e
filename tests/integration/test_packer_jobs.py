"""One leased deployment on a packer's machine: what it may do there, and what that may do."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from obstore.store import MemoryStore

from quickthaw.cli.making import Recipe
from quickthaw.cli.packer.job import Job
from quickthaw.cli.packer.order import Order
from quickthaw.cli.packer.packing import pack
from quickthaw.cli.packer.settings import PackerSettings
from quickthaw.cli.packer.staging import Staging
from quickthaw.cli.packer.walls import find_walls
from quickthaw.client import AsyncClient, DeploymentReport, LeasedDeployment
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import SettingsInvalid
from support.tiny_models import tiny_sd

USER = "nobody"


def settings(folder: Path, user: str = "") -> PackerSettings:
    return PackerSettings(
        scheduler="127.0.0.1:1",
        key_file=folder / "admin.key",
        blob_store=str(folder / "blobs"),
        snapshots=folder / "snapshots",
        work_dir=folder / "work",
        pack_user=user,
    )


class Heard:
    """A scheduler that takes reports and has the failed deployment tried again."""

    def __init__(self) -> None:
        self.reports: list[DeploymentReport] = []

    async def report(
        self, _deployment: str, _lease: str, _lease_ms: int, report: DeploymentReport
    ) -> Any:
        self.reports.append(report)
        return SimpleNamespace(finished_unix_ms=0)


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (errno.ENOSPC, "STORAGE_FULL", "the packer's disk is full"),
        (errno.EIO, "UNAVAILABLE", "the packer's machine does not work: Input/output error"),
    ],
)
async def test_what_the_packers_machine_does_is_no_fault_of_the_tenants(
    code: int, reason: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_staging: Staging) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Staging, "prepare", fails)
    heard = Heard()
    client = cast("AsyncClient", SimpleNamespace(deployments=heard))
    spec = SimpleNamespace(model="me/style", files=())
    deployment = SimpleNamespace(deployment_id="dep_1", tenant="me", spec=spec)
    leased = SimpleNamespace(deployment=deployment, lease_id="lease", base=None)
    await Job(client, settings(tmp_path), MemoryStore(), cast("LeasedDeployment", leased)).run()
    failure = heard.reports[-1].failure
    assert failure is not None
    assert (failure.reason, failure.retryable) == (reason, True)
    assert failure.message == said


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user can pass, of a platform whose files are closed to all others."""
    before = os.umask(0o077)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o711)
        (path / "work").mkdir()
        (path / "work").chmod(0o711)
        yield path
    os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_packs_what_the_platform_takes_over(open_folder: Path) -> None:
    given = settings(open_folder, USER)
    try:
        await find_walls(given)
    except SettingsInvalid as error:
        if str(open_folder) in error.message:
            raise
        pytest.skip(f"this Python cannot be read by another user: {error.message}")
    staging = Staging(given.work_dir / "dep_1", USER)
    staging.prepare()
    tiny_sd(0).save_pretrained(staging.files)
    staging.open_up()
    order = Order(
        source=str(staging.files),
        hidden=staging.hidden,
        snapshots=str(staging.store),
        finished=str(staging.store / "finished.json"),
        bases=str(staging.base),
        base_digest="",
        recipe=Recipe(),
        data_bytes_max=1 << 34,
        rooms=staging.rooms,
    )
    digest = await pack(order, staging.home, 240.0, lambda _: None)
    manifest = SnapshotStore(staging.store).manifest_path(digest)
    assert manifest.owner() == USER
    snapshot = SnapshotStore(given.snapshots).adopt(staging.store, digest, None)
    shutil.rmtree(staging.root)
    assert verify(given.snapshots, snapshot.digest).intact
    owners = {path.owner() for path in given.snapshots.rglob("*")}
    assert owners == {"root"}
