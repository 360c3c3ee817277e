"""`quickthaw up` whose workers come and go with the traffic: real processes, real requests."""

from __future__ import annotations

from pathlib import Path

from quickthaw.client import Client, Component, Model, RequestState
from support.platform import Platform, running_platform, until

ELASTIC = (
    *("--workers-max", "1", "--scale-down-delay", "0.5"),
    *("--vram-bytes", "256MiB", "--pinned-bytes", "64MiB"),
)
NOOP = Model(
    id="test/noop",
    family="noop",
    snapshot_digest="",
    snapshot_uri="",
    components=tuple[Component](),
    working_bytes=0,
    input_schema={"type": "object"},
)


def workers(client: Client) -> list[str]:
    return [worker.worker_id for worker in client.workers.list()]


def logged(platform: Platform) -> str:
    assert platform.process.stderr is None
    return platform.logs()


async def test_a_request_wakes_a_fleet_that_had_scaled_to_zero_and_it_goes_again(
    tmp_path: Path,
) -> None:
    with running_platform(tmp_path / "data", *ELASTIC) as platform, platform.client() as client:
        assert workers(client) == []
        client.models.register(NOOP)
        first = client.run("test/noop", {})
        assert first.state is RequestState.SUCCEEDED, logged(platform)
        assert first.receipt is not None
        woken = first.receipt.worker_id
        assert workers(client) == [woken]
        await until(lambda: workers(client) == [], "scaling to zero")
        again = client.run("test/noop", {})
        assert again.state is RequestState.SUCCEEDED
        assert again.receipt is not None
        assert again.receipt.worker_id == woken
