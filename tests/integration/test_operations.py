"""What the page for operators promises: names that exist, and a backup that can be started."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from quickthaw.gateway import settings as gateway
from quickthaw.scheduler import settings as scheduler
from quickthaw.v1 import billing_pb2, catalog_pb2, inference_pb2, types_pb2
from support.documents import PAGES, ROOT
from support.expositions import families, sample_names
from support.fake_worker import FakeWorker
from support.schedulers import Caller, SchedulerProcess, a_model
from support.store_servers import PostgresServer, postgres_binaries

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
OTHER_FLAGS = {
    *("--data-dir", "--store", "--blob-store", "--set", "--stop", "--help"),
    *("--key-file", "--link-secret-file", "--push", "--to", "--peers", "--fleet"),
    *("--grpc", "--grpc-local", "--scheduler", "--peers-tls", "--scheduler-tls-cert"),
    *("--scheduler-tls-key", "--tls-ca", "--tls-cert", "--tls-client-ca", "--tls-key"),
    *("--no-deps", "--force-reinstall", "--compiled"),
    *("--format", "--file", "--no-owner", "--exit-on-error", "--dbname"),
}
"""Of commands, pip's, PostgreSQL's and a benchmark's among them, and not limits."""


def flags_of(limits: type) -> dict[str, object]:
    return {"--" + each.name.replace("_", "-"): each.default for each in fields(limits)}


def test_every_flag_of_the_page_exists_and_its_table_says_the_defaults() -> None:
    text = PAGE.read_text()
    limits = flags_of(scheduler.Limits) | flags_of(gateway.Limits)
    assert set(re.findall(r"--[a-z-]+[a-z]", text)) - limits.keys() <= OTHER_FLAGS
    (of_set,) = set(re.findall(r"scheduler\.([a-z-]+)=", text))
    assert f"--{of_set}" in limits
    told = {
        flag: row
        for row in text.splitlines()
        if row.startswith("|")
        for flag in re.findall(r"`(--[a-z-]+)`", row)
    }
    for flag, words in (
        ("--request-keep-days", "90 days"),
        ("--webhook-keep-days", "30 days"),
        ("--idempotency-retention-hours", "24 hours"),
        ("--explanations-max", "20,000"),
    ):
        assert words in told[flag]
        assert limits[flag] == int(re.sub(r"\D", "", words))
    assert limits["--ledger-keep-days"] == 0
    assert limits["--deployment-retention-hours"] == 30 * 24
    assert limits["--upload-seconds"] == 30 * 86_400
    assert limits["--upload-partial-seconds"] == 86_400
    assert limits["--input-kept-seconds"] == 7 * 86_400


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    everything = [each for part in families().values() for each in part]
    told = {name for each in everything for name in sample_names(each)}
    histograms = {each.name for each in everything}
    named = set(re.findall(r"(?<!\w)(?:quickthaw|process)_[a-z_]+[a-z]", page.read_text()))
    assert named <= told | histograms


def test_every_variable_that_is_read_is_on_a_page() -> None:
    packages = [each.parent for each in ROOT.glob("*/quickthaw/*/py.typed")]
    sources = [path.read_text() for package in packages for path in package.rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"\bQUICKTHAW_[A-Z_]+\b", text)}
    told = {name for page in PAGES for name in re.findall(r"QUICKTHAW_[A-Z_]+", page.read_text())}
    assert len(read) > 5
    assert read == told


def test_every_part_tells_when_it_started() -> None:
    for metrics in families().values():
        assert "process_start_time_seconds" in {each.name for each in metrics}


async def test_a_backup_that_was_taken_under_load_starts_with_all_that_was_accepted_before(
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    with SchedulerProcess(here) as process:
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        before = [await caller.submit() for _ in range(20)]
        busy = asyncio.gather(*(caller.submit() for _ in range(200)))
        await asyncio.to_thread(vacuum_into, here / "quickthaw.db", there / "quickthaw.db")
        await busy
        await caller.channel.close()
    for key in here.glob("*.key"):
        shutil.copy2(key, there)
    with SchedulerProcess(there) as process:
        caller = Caller(process.grpc, process.key("admin"))
        async with FakeWorker(process.grpc, process.key("worker"), automatic=True):
            for request_id in before:
                ended = await caller.until_ended(request_id)
                assert ended.HasField("receipt")
        listed = await caller.inference.List(inference_pb2.ListRequestsRequest())
        assert len(listed.requests) >= len(before)
        await caller.channel.close()


def vacuum_into(store: Path, backup: Path) -> None:
    connection = sqlite3.connect(store)
    connection.execute("VACUUM INTO ?", (str(backup),))
    connection.close()


async def test_a_dump_of_postgresql_that_was_taken_under_load_goes_on_with_the_same_bill(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "backup").mkdir(parents=True)
    store, restored = postgres.new_database(), postgres.new_database()
    with SchedulerProcess(here, environment={"QUICKTHAW_STORE": store}) as process:
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        async with FakeWorker(process.grpc, process.key("worker"), automatic=True):
            for _ in range(5):
                await caller.until_ended(await caller.submit())
        billed = await bill(caller)
        waiting = [await caller.submit() for _ in range(5)]
        busy = asyncio.gather(*(caller.submit() for _ in range(100)))
        await asyncio.to_thread(as_the_page_says, "pg_dump", there, store)
        await busy
        await caller.channel.close()
    for key in here.glob("*.key"):
        shutil.copy2(key, there)
    await asyncio.to_thread(as_the_page_says, "pg_restore", there, restored)
    with SchedulerProcess(there, environment={"QUICKTHAW_STORE": restored}) as process:
        caller = Caller(process.grpc, process.key("admin"))
        assert len(billed) == 5
        assert await bill(caller) == billed
        async with FakeWorker(process.grpc, process.key("worker"), automatic=True):
            receipts = {each: (await caller.until_ended(each)).receipt for each in waiting}
        after = await bill(caller)
        assert after.items() >= billed.items()
        for request_id, receipt in receipts.items():
            assert after[request_id] == receipt.price_nanodollars > 0
        await caller.channel.close()


def as_the_page_says(program: str, folder: Path, store: str) -> None:
    """Runs the page's own line."""
    (line,) = re.findall(rf"^{program} .*$", PAGE.read_text(), re.MULTILINE)
    path = f"{postgres_binaries()}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "QUICKTHAW_STORE": store}
    subprocess.run(["bash", "-c", line], cwd=folder, env=environment, check=True)


async def bill(caller: Caller) -> dict[str, int]:
    """Nanodollars by request, of all lines."""
    everything = billing_pb2.ListLedgerRequest(page=types_pb2.Page(size=1000))
    lines = (await caller.billing.ListLedger(everything)).lines
    return {line.request_id: line.price_nanodollars for line in lines}
