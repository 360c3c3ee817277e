"""Two schedulers on one PostgreSQL: one leads, the other waits, and never do both."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from quickthaw.scheduler.store.journal import JournalLimits
from quickthaw.scheduler.store.store import Store, open_store
from quickthaw.v1 import billing_pb2, catalog_pb2
from quickthaw.wire import errors
from support import store_rows as rows
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import Caller, SchedulerProcess, a_model
from support.severed import OneSidedBreak
from support.store_servers import PostgresServer, free_port, postgres_binaries

STANDBY = ("--store-lock-wait-ms", "600000")


def hang_up(store: str) -> None:
    """On every session of the database that holds a lock, as a failover does."""
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        )


class Standby:
    """A scheduler process that waits for the store of another."""

    def __init__(self, store: str, data_dir: Path) -> None:
        self.process = SchedulerProcess(data_dir, STANDBY, {"QUICKTHAW_STORE": store})
        self.process.grpc = f"127.0.0.1:{free_port()}"

    async def __aenter__(self) -> Standby:
        self.running = await asyncio.create_subprocess_exec(
            *self.process.command(),
            env=self.process.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.running.stderr is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"waiting for it" not in await self.running.stderr.readline():
                pass
        return self

    async def until_ready(self) -> None:
        assert self.running.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"ready" in await self.running.stdout.readline()

    async def __aexit__(self, *_: object) -> None:
        if self.running.returncode is None:
            self.running.kill()
        await self.running.communicate()


async def test_a_standby_takes_over_what_was_accepted_and_listens_only_then(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    store = postgres.new_database()
    with SchedulerProcess(tmp_path, environment={"QUICKTHAW_STORE": store}) as first:
        caller = Caller(first.grpc, first.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        async with Standby(store, tmp_path) as standby:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*standby.process.grpc.split(":"))
            accepted = await caller.submit()
            await caller.channel.close()
            first.kill()
            await standby.until_ready()
            caller = Caller(standby.process.grpc, standby.process.key("admin"))
            async with FakeWorker(caller.address, standby.process.key("worker"), automatic=True):
                ended = await caller.until_ended(accepted)
            lines = (await caller.billing.ListLedger(billing_pb2.ListLedgerRequest())).lines
            assert [line.request_id for line in lines] == [ended.request_id] == [accepted]
            await caller.channel.close()


async def test_a_standby_hears_a_signal_while_it_waits(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    store = postgres.new_database()
    with SchedulerProcess(tmp_path, environment={"QUICKTHAW_STORE": store}):
        async with Standby(store, tmp_path) as standby:
            standby.running.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(standby.running.wait(), PATIENCE_SECONDS) == 0


async def test_whoever_lost_the_store_to_a_standby_ends_though_nobody_calls_it(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    store = postgres.new_database()
    first = SchedulerProcess(tmp_path, environment={"QUICKTHAW_STORE": store})
    with first:
        async with Standby(store, tmp_path) as standby:
            assert first.process is not None
            first.process.send_signal(signal.SIGSTOP)
            hang_up(store)
            await standby.until_ready()
            first.process.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(first.process.wait, PATIENCE_SECONDS) == 1


@pytest.fixture
async def proxied(postgres: PostgresServer) -> AsyncIterator[tuple[OneSidedBreak, str, str]]:
    """The network, the store through it, and the store."""
    network, direct = OneSidedBreak(postgres.port), postgres.new_database()
    yield network, direct.replace(str(postgres.port), str(network.port)), direct
    network.close()


async def opened(url: str, taken_over: asyncio.Event | None = None) -> Store:
    """Which looks after its lock only when it writes."""
    limits = JournalLimits(backoff_first_seconds=0.01, check_seconds=3600.0)
    lost = taken_over or asyncio.Event()
    store = await asyncio.to_thread(
        open_store, url, readers=1, lock_wait_seconds=0.0, limits=limits, on_taken_over=lost.set
    )
    store.journal.start()
    return store


async def test_an_own_session_that_the_server_still_believes_in_is_ended(
    proxied: tuple[OneSidedBreak, str, str],
) -> None:
    network, store_url, _ = proxied
    store = await opened(store_url)
    network.sever()
    await asyncio.wait_for(store.journal.keep(rows.model_rows()), PATIENCE_SECONDS)
    await store.close()


async def test_whoever_comes_back_after_a_successor_has_gone_again_does_not_write(
    proxied: tuple[OneSidedBreak, str, str],
) -> None:
    network, store_url, direct = proxied
    taken_over = asyncio.Event()
    first = await opened(store_url, taken_over)
    network.sever()
    hang_up(direct)
    await (await opened(direct)).close()
    happened = first.journal.keep(rows.model_rows())
    await asyncio.wait_for(taken_over.wait(), PATIENCE_SECONDS)
    with pytest.raises(errors.Unavailable, match="shutting down"):
        first.journal.offer(rows.submit(rows.a_job()))
    assert not happened.done(), "what became of it is the successor's to say"
    await first.close()


async def test_a_store_that_goes_away_while_nobody_writes_is_told_and_so_is_its_return() -> None:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL on this machine: install Debian's `postgresql` package")
    server = PostgresServer(binaries)
    server.start()
    told: asyncio.Queue[bool] = asyncio.Queue()
    store = await asyncio.to_thread(
        lambda: open_store(
            server.new_database(),
            readers=1,
            lock_wait_seconds=0.0,
            limits=JournalLimits(check_seconds=0.02),
            on_fault=told.put_nowait,
        )
    )
    store.journal.start()
    try:
        await asyncio.to_thread(server.stop)
        assert await asyncio.wait_for(told.get(), PATIENCE_SECONDS)
        await asyncio.to_thread(server.start)
        assert not await asyncio.wait_for(told.get(), PATIENCE_SECONDS)
        await store.journal.offer(rows.model_rows())
    finally:
        await store.close()
        server.close()
