"""A model that is on no disk of the worker: from a web server, from another worker, from both."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.verify import verify
from quickthaw.v1 import fleet_pb2, types_pb2
from support.fake_scheduler import FakeScheduler, Session
from support.platform import until
from support.remote_servers import Asked, Faults, WebServer
from support.tiny_models import tiny_sd
from support.workers import RunningWorker, a_worker

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
REMOTE, DISK = types_pb2.TIER_REMOTE, types_pb2.TIER_DISK
SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
INPUT = {
    "prompt": "a red circle",
    "num_inference_steps": 1,
    "image_size": {"width": 32, "height": 32},
    "seed": 7,
    "preview_every": 0,
}
FLAGS = ("--families", "sd", "--peers", "127.0.0.1:0", "--remote-read-seconds", "1")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("there")
    return root, pack(tiny_sd(0), SnapshotStore(root))


async def welcomed(scheduler: FakeScheduler, worker: RunningWorker) -> Session:
    session = await scheduler.attached()
    session.welcome()
    await worker.ready.wait()
    return session


async def draw(
    session: Session,
    digest: str,
    uri: str,
    attempt: str,
    whereabouts: list[fleet_pb2.Whereabouts] | None = None,
) -> fleet_pb2.AttemptFinished:
    session.assign(
        attempt,
        family="sd",
        snapshot_digest=digest,
        snapshot_uri=uri,
        input_json=json.dumps(INPUT),
        whereabouts=whereabouts or [],
    )
    return await session.finished(attempt)


def known_of(root: Path, digest: str, peer: fleet_pb2.Hello) -> list[fleet_pb2.Whereabouts]:
    """What a scheduler says of a worker that has all of a snapshot."""
    place = fleet_pb2.Peer(url=peer.peer_url, token=peer.peer_token)
    parts = SnapshotStore(root).open(digest).manifest.components
    return [fleet_pb2.Whereabouts(digest=part.digest, peers=[place]) for part in parts]


async def test_a_model_starts_from_a_web_server_and_comes_to_stay(
    scheduler: FakeScheduler, there: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = there
    with WebServer(root) as server:
        async with a_worker(scheduler, tmp_path / "w1", *FLAGS) as worker:
            session = await welcomed(scheduler, worker)
            first = await draw(session, digest, server.url, "r1.1")
            assert first.outcome == SUCCEEDED, first.failure
            assert first.start_tier == REMOTE
            assert {part.copier for part in first.load.components} == {"remote"}
            store = SnapshotStore(tmp_path / "w1" / "snapshots")
            await until(lambda: digest in store, "the disk tier")
            told = [m.residency for m in session.seen("residency")]
            await until(
                lambda: (
                    sum(
                        line.tier == DISK
                        for m in session.seen("residency")
                        for line in m.residency.added
                    )
                    == 3
                ),
                "the news of the disk tier",
            )
            assert told
        assert verify(store.root, digest).intact
        asked = len(server.asked)
        async with a_worker(scheduler, tmp_path / "w1", *FLAGS) as worker:
            session = await welcomed(scheduler, worker)
            again = await draw(session, digest, server.url, "r2.1")
            assert (again.outcome, again.start_tier) == (SUCCEEDED, DISK)
            assert again.artifacts[0].sha256 == first.artifacts[0].sha256
        assert len(server.asked) == asked


async def test_the_second_worker_gets_the_model_from_the_first(
    scheduler: FakeScheduler, there: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = there
    with WebServer(root) as server:
        async with a_worker(scheduler, tmp_path / "w1", *FLAGS) as one:
            session = await welcomed(scheduler, one)
            hello = session.hello
            assert hello.peer_url.startswith("http://127.0.0.1:")
            first = await draw(session, digest, server.url, "r1.1")
            asked = len(server.asked)
            flags = (*FLAGS, "--worker-id", "w2")
            async with a_worker(scheduler, tmp_path / "w2", *flags) as two:
                other = await welcomed(scheduler, two)
                assert other.hello.peer_token != hello.peer_token
                places = known_of(root, digest, hello)
                second = await draw(other, digest, "/not/here", "r2.1", places)
                assert second.outcome == SUCCEEDED, second.failure
                assert second.start_tier == REMOTE
                assert {part.copier for part in second.load.components} == {"peer"}
                assert second.artifacts[0].sha256 == first.artifacts[0].sha256
            assert len(server.asked) == asked
            assert one.metric("peer_sent_bytes_total") > 1_000_000


async def test_a_peer_that_lies_and_one_that_is_gone_cost_no_request(
    scheduler: FakeScheduler, there: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = there
    liar_faults = Faults(flip=lambda asked: "components" in asked.path and asked.start > 0)
    with WebServer(root) as server, WebServer(root, liar_faults) as liar:
        gone = fleet_pb2.Peer(url="http://127.0.0.1:9", token="x")
        lies = fleet_pb2.Peer(url=liar.url, token="x")
        parts = SnapshotStore(root).open(digest).manifest.components
        places = [fleet_pb2.Whereabouts(digest=part.digest, peers=[gone, lies]) for part in parts]
        async with a_worker(scheduler, tmp_path / "w1", *FLAGS) as worker:
            session = await welcomed(scheduler, worker)
            end = await draw(session, digest, server.url, "r1.1", places)
            assert end.outcome == SUCCEEDED, end.failure
            for reason in ("SNAPSHOT_CORRUPT", "STORE_UNAVAILABLE"):
                assert worker.metric("remote_faults_total", kind="peer", reason=reason) >= 1


async def test_damage_fails_the_request_by_name_and_the_next_one_may_succeed(
    scheduler: FakeScheduler, there: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = there
    unet = SnapshotStore(root).open(digest).manifest.component("unet")

    def flip(asked: Asked) -> bool:
        return unet.digest in asked.path and asked.start >= unet.data_start

    with WebServer(root, Faults(flip=flip)) as server:
        async with a_worker(scheduler, tmp_path / "w1", *FLAGS) as worker:
            session = await welcomed(scheduler, worker)
            end = await draw(session, digest, server.url, "r1.1")
            assert end.failure.reason == "SNAPSHOT_CORRUPT"
            assert unet.digest in end.failure.message
            server.faults = replace(server.faults, flip=lambda _: False)
            assert (await draw(session, digest, server.url, "r2.1")).outcome == SUCCEEDED


async def test_forged_weights_are_withdrawn_and_never_run_again(
    scheduler: FakeScheduler, there: tuple[Path, str], tmp_path: Path
) -> None:
    """Blocks that match a manifest that lies about the whole: found when the disk is written."""
    root, lie = tmp_path / "forged", "ab" * 32
    shutil.copytree(there[0], root)
    source = SnapshotStore(root)
    vae = source.open(there[1]).manifest.component("vae").digest
    encoded = source.manifest_path(there[1]).read_bytes().replace(vae.encode(), lie.encode())
    source.component_path(vae).rename(source.component_path(lie))
    with source.writing() as writer:
        digest = writer.add_encoded_manifest(encoded)
    with WebServer(root) as server:
        async with a_worker(scheduler, tmp_path / "w1", *FLAGS) as worker:
            session = await welcomed(scheduler, worker)
            await draw(session, digest, server.url, "r1.1")
            await until(lambda: worker.metric("components_withdrawn_total") == 1, "withdrawal")
            end = await draw(session, digest, server.url, "r2.1")
            assert end.failure.reason == "SNAPSHOT_CORRUPT"
            assert "withdrawn" in end.failure.message
            assert digest not in SnapshotStore(tmp_path / "w1" / "snapshots")


async def test_a_place_that_nobody_can_read_is_named(
    scheduler: FakeScheduler, there: tuple[Path, str], tmp_path: Path
) -> None:
    _root, digest = there
    async with a_worker(scheduler, tmp_path / "w1", *FLAGS, "--remote-retries", "0") as worker:
        session = await welcomed(scheduler, worker)
        for number, (uri, reason) in enumerate(
            (
                ("http://127.0.0.1:9/x", "STORE_UNAVAILABLE"),
                ("ftp://host/x", "SETTINGS_INVALID"),
                ("/not/here", "NOT_FOUND"),
            )
        ):
            end = await draw(session, digest, uri, f"r{number}.1")
            assert end.failure.reason == reason, end.failure.message
            assert end.failure.retryable == (reason == "STORE_UNAVAILABLE")
