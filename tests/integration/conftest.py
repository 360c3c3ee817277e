"""Fixtures of the integration tests: stores to run against, a platform for the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quickthaw.cli.main import execute
from quickthaw.v1 import inference_pb2, types_pb2
from support import answers
from support.command_line import Quickthaw, Told
from support.fake_platform import KEY, FakePlatform
from support.store_servers import PostgresServer, postgres_binaries

if TYPE_CHECKING:
    from support.fake_scheduler import FakeScheduler
    from support.studio import Packed, Studio


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL on this machine: install Debian's `postgresql` package")
    server = PostgresServer(binaries)
    server.start()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with FakePlatform() as made:
        made.scripts |= {
            "GetModel": lambda _: answers.a_model(),
            "Submit": lambda _: inference_pb2.SubmitResponse(request_id=answers.REQUEST_ID),
            "Watch": watch_all,
            "ReadArtifact": lambda _: answers.chunks(answers.PICTURE, answers.an_artifact()),
            "Cancel": lambda _: inference_pb2.CancelResponse(
                state=types_pb2.REQUEST_STATE_CANCELLED
            ),
        }
        yield made


@pytest.fixture
def quickthaw(
    platform: FakePlatform,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Quickthaw:
    monkeypatch.setenv("QUICKTHAW_GRPC", platform.address)
    monkeypatch.setenv("QUICKTHAW_KEY", KEY)
    monkeypatch.setenv("QUICKTHAW_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Told:
        capsys.readouterr()
        status = execute(arguments)
        captured = capsys.readouterr()
        return Told(status, captured.out, captured.err)

    return call


async def watch_all(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
    for event in answers.a_run():
        if event.sequence > message.after_sequence:
            yield event


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    # Torch takes seconds to load, which most tests need not wait for.
    from support.studio import pack_all_kinds

    return pack_all_kinds(tmp_path_factory.mktemp("packed"))


@pytest.fixture
async def scheduler() -> AsyncIterator[FakeScheduler]:
    """What a test of a worker sees of the rest."""
    from support.fake_scheduler import FakeScheduler

    async with FakeScheduler() as scheduler:
        yield scheduler


@pytest.fixture
async def studio(
    scheduler: FakeScheduler, packed: Packed, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Studio]:
    from support.studio import Studio
    from support.workers import a_worker

    flags = getattr(request, "param", ())
    if callable(flags):
        flags = flags(packed)
    async with a_worker(scheduler, tmp_path, "--pinned-bytes", "64MiB", *flags) as worker:
        session = await scheduler.attached()
        session.welcome()
        yield Studio(session, worker, packed, tmp_path)
