"""What the platform adds to a realtime input's run, over the gateway's WebSocket on loopback.

    python -m bench.realtime [--rounds 5] [--inputs 200]

A round trip is from an input's frame to its output's, on one open session, inputs one after the
other; the run's own time is subtracted: what the receipt says of it, which is whole milliseconds,
rounded down, and what a round's receipts leave out of it on average, which the worker's metrics
tell (`unbilled_ms`). `noop` runs nothing: all of it is overhead. `picture` draws with the bundled
model at its fewest steps: its overhead includes sending the picture's bytes. `pause` is `noop` with
as long between inputs as a picture takes: caches and processors cool down meanwhile, which is most
of what a picture costs more. `parts` is what receipts say of a round trip, and what they do not:
the way there and back, and the commit. Every input is a request with a receipt and a line in the
ledger. `grpc` is the same session without the gateway, and `fdatasync` of the same disk is printed
beside them, because an end is durable before it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgpack
import websockets
from bench.scheduler import NOOP, fdatasync_ms, part
from bench.support import metric_value, quantile, record

from quickthaw.cli.up.datadir import TARGETS_FILE
from quickthaw.cli.up.process import Command, Process
from quickthaw.client import AsyncClient
from quickthaw.client.events import Finished, RealtimeEvent
from quickthaw.client.realtime import RealtimeSession
from quickthaw.client.requests import JsonObject

WARM_UP_INPUTS = 20
PICTURE_MODEL = "quickthaw/shapes"
PICTURE: JsonObject = {
    "prompt": "a red circle",
    "num_inference_steps": 1,
    "image_size": {"width": 64, "height": 64},
    "seed": 7,
}

PAUSE_SECONDS = 0.085


class Parts(NamedTuple):
    """Of one round trip, in milliseconds; all but the first as its receipt has them."""

    round_trip: float
    queue: float
    load: float
    run: float

    @property
    def overhead(self) -> float:
        return self.round_trip - self.run


Trip = Callable[[], Awaitable[Parts]]
"""One input. Raises unless it succeeded."""


class Measured(NamedTuple):
    """A platform with one worker."""

    ways: Mapping[str, Trip]
    worker_metrics: str

    def run_ms_total(self) -> float:
        """Of all inputs so far, by the worker's own clock."""
        return 1000 * metric_value(self.worker_metrics, "quickthaw_worker_run_seconds_sum")

    async def round(self, way: str, inputs: int) -> Round:
        before_ms = await asyncio.to_thread(self.run_ms_total)
        trips = [await self.ways[way]() for _ in range(inputs)]
        ran_ms = await asyncio.to_thread(self.run_ms_total) - before_ms
        unbilled_ms = (ran_ms - sum(each.run for each in trips)) / inputs
        return Round([each._replace(run=each.run + unbilled_ms) for each in trips], unbilled_ms)


class Round(NamedTuple):
    trips: list[Parts]
    unbilled_ms: float
    """What receipts leave out of an input's run, on average."""

    @property
    def overhead_ms(self) -> float:
        return statistics.median(each.overhead for each in self.trips)


def over_websocket(socket: websockets.ClientConnection, arguments: JsonObject) -> Trip:
    frame = msgpack.packb(arguments)
    assert isinstance(frame, bytes)

    async def trip() -> Parts:
        began = time.perf_counter()
        await socket.send(frame)
        answer = await socket.recv()
        took_ms = (time.perf_counter() - began) * 1000
        assert isinstance(answer, bytes), answer
        output = msgpack.unpackb(answer)
        assert "prompt" not in arguments or output["images"][0]["content"], output
        timings = await socket.recv()
        assert json.loads(timings)["action"] == "timings", timings
        receipt = output["receipt"]
        return Parts(took_ms, receipt["queue_ms"], receipt["load_ms"], receipt["run_ms"])

    return trip


def over_grpc(session: RealtimeSession, model: str, arguments: JsonObject) -> Trip:
    answers = aiter(session)
    count = 0

    async def trip() -> Parts:
        nonlocal count
        count += 1
        began = time.perf_counter()
        await session.send(str(count), model, arguments)
        while True:
            answer = await anext(answers)
            assert isinstance(answer, RealtimeEvent), answer
            if isinstance(answer.event, Finished):
                break
        took_ms = (time.perf_counter() - began) * 1000
        receipt = answer.event.request.receipt
        assert receipt is not None, answer
        return Parts(took_ms, receipt.queue_ms, receipt.load_ms, receipt.run_ms)

    return trip


def read_key(path: str) -> str:
    return Path(path).read_text(encoding="ascii").strip()


@asynccontextmanager
async def trips(
    grpc: str, http: str, key: str, model: str, arguments: JsonObject
) -> AsyncIterator[dict[str, Trip]]:
    url = http.replace("http", "ws", 1) if "://" in http else f"ws://{http}"
    headers = {"authorization": f"Key {key}"}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(grpc=grpc, key=key))
        socket = await stack.enter_async_context(
            websockets.connect(f"{url}/{model}/realtime", additional_headers=headers)
        )
        session = await stack.enter_async_context(client.realtime())
        yield {
            "websocket": over_websocket(socket, arguments),
            "grpc": over_grpc(session, model, arguments),
        }


@asynccontextmanager
async def noop(folder: Path) -> AsyncIterator[Measured]:
    anywhere = "127.0.0.1:0"
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            part(
                folder,
                "scheduler",
                ("--data-dir", str(folder), "--grpc", anywhere, "--metrics", anywhere),
            )
        )
        worker = (
            *("--scheduler", scheduler["grpc"], "--key-file", str(folder / "worker.key")),
            *("--worker-id", "bench", "--data-dir", str(folder / "worker")),
            *("--blob-store", str(folder / "blobs")),
            *("--device", "cpu", "--families", "noop"),
        )
        running = await stack.enter_async_context(part(folder, "worker", worker))
        key_file = folder / "admin.key"
        gateway = ("--scheduler", scheduler["grpc"], "--http", anywhere, "--key-file")
        front = await stack.enter_async_context(part(folder, "gateway", (*gateway, str(key_file))))
        key = key_file.read_text().strip()
        async with AsyncClient(grpc=scheduler["grpc"], key=key) as client:
            await client.models.register(NOOP)
        ways = trips(scheduler["grpc"], front["http"], key, NOOP.id, {})
        yield Measured(await stack.enter_async_context(ways), running["metrics"])


@asynccontextmanager
async def picture(folder: Path) -> AsyncIterator[Measured]:
    anywhere = "127.0.0.1:0"
    up = ("quickthaw.cli", "up", "--data-dir", str(folder), "--device", "cpu")
    listen = ("--http", anywhere, "--grpc", anywhere, "--metrics", anywhere)
    environment = {"OMP_NUM_THREADS": "1"}
    process = await Process.start(
        Command("up", (*up, *listen), "quickthaw", folder / "up.log", environment)
    )
    try:
        ready = await process.ready()
        key = read_key(ready["key-file"])
        async with trips(ready["grpc"], ready["http"], key, PICTURE_MODEL, PICTURE) as ways:
            yield Measured(ways, worker_metrics(folder))
    finally:
        await process.stop(grace_seconds=30)


def worker_metrics(data_dir: Path) -> str:
    """Of the one worker that `quickthaw up` runs there."""
    parts = json.loads((data_dir / TARGETS_FILE).read_text())
    (worker,) = (each for each in parts if each["labels"]["component"] == "worker")
    return f"http://{worker['targets'][0]}{worker['labels']['__metrics_path__']}"


async def paused(trip: Trip) -> Parts:
    await asyncio.sleep(PAUSE_SECONDS)
    return await trip()


@asynccontextmanager
async def pause(folder: Path) -> AsyncIterator[Measured]:
    async with noop(folder) as measured:
        ways = {way: partial(paused, trip) for way, trip in measured.ways.items()}
        yield measured._replace(ways=ways)


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    results: dict[str, object] = {}
    for name, platform in (("noop", noop), ("pause", pause), ("picture", picture)):
        place = folder / name
        place.mkdir()
        async with platform(place) as measured:
            rounds: dict[str, list[Round]] = {way: [] for way in measured.ways}
            for way in measured.ways:
                await measured.round(way, WARM_UP_INPUTS)
            for number in range(arguments.rounds):
                for way in measured.ways:
                    rounds[way].append(await measured.round(way, arguments.inputs))
                    print(
                        f"{name:8} round {number + 1}/{arguments.rounds} {way:10} "
                        f"{rounds[way][-1].overhead_ms:.2f} ms",
                        file=sys.stderr,
                    )
        results[name] = {way: summary(each) for way, each in rounds.items()}
    results["fdatasync_ms_p50"] = statistics.median(fdatasync_ms(folder))
    return results


def summary(rounds: list[Round]) -> dict[str, object]:
    medians = [each.overhead_ms for each in rounds]
    trips = [trip for each in rounds for trip in each.trips]
    everything = [trip.overhead for trip in trips]
    means = {
        name: statistics.fmean(part)
        for name, part in zip(Parts._fields, zip(*trips, strict=True), strict=True)
    }
    known = means["queue"] + means["load"] + means["run"]
    return {
        "overhead_ms_p50": {
            "median": statistics.median(medians),
            "min": min(medians),
            "max": max(medians),
        },
        "overhead_ms_p90": quantile(everything, 0.9),
        "overhead_ms_p99": quantile(everything, 0.99),
        "unbilled_ms_mean": statistics.fmean(each.unbilled_ms for each in rounds),
        "parts_ms_mean": {**means, "in_no_receipt": means["round_trip"] - known},
    }


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.realtime",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each way, in turn (5)")
    parser.add_argument("--inputs", type=int, default=200, help="in a round (200)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
        results = asyncio.run(measure(arguments, Path(folder)))
    record("realtime", {"rounds": arguments.rounds, "inputs": arguments.inputs}, results)


if __name__ == "__main__":
    main()
