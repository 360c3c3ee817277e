"""What a thousand workers cost a scheduler that has nothing else to do.

    python -m bench.heartbeats [--workers 1000] [--seconds 20] [--running 0]

A scheduler process; in this process, `--workers` streams to it, one for each worker, over real
sockets and the wire's own messages. Each says Hello, then heartbeats as often as a worker does,
with `--running` attempts that do not end (submitted first, so that each heartbeat brings a run time
that has to be written). Measured is the scheduler's processor time as
a share of one core, and how long acknowledgements take.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
from bench.cpu import spent_between, thread_seconds
from bench.scheduler import NOOP, part
from bench.support import quantile, record

from quickthaw.client import AsyncClient
from quickthaw.v1 import fleet_pb2, inference_pb2, types_pb2
from quickthaw.v1.fleet_pb2_grpc import FleetStub
from quickthaw.v1.inference_pb2_grpc import InferenceStub
from quickthaw.wire.limits import CHANNEL_OPTIONS, FRAME_MESSAGES_MAX
from quickthaw.worker.lease import idle_turns

if TYPE_CHECKING:
    from quickthaw.v1.fleet_pb2_grpc import FleetAsyncStub  # declared for type checkers only

CHANNELS = 10
"""Connections to share the streams: a server bounds the streams of one."""
AT_ONCE = 50
"""Workers that say Hello at the same time."""


@dataclass(slots=True)
class Beats:
    """What the workers of this process have sent and heard."""

    acknowledged: int = 0
    ack_ms: list[float] = field(default_factory=list[float])
    assigned: int = 0
    expected: int = 0
    all_assigned: asyncio.Event = field(default_factory=asyncio.Event)


_Call = grpc.aio.StreamStreamCall[fleet_pb2.WorkerFrame, fleet_pb2.SchedulerFrame]


async def worker(
    stub: FleetAsyncStub,
    key: str,
    number: int,
    concurrency: int,
    beats: Beats,
    ready: asyncio.Event,
) -> None:
    """One worker's stream, until it is cancelled."""
    call: _Call = stub.Attach(metadata=(("authorization", f"Key {key}"),))
    hello = fleet_pb2.Hello(
        worker_id=f"bench-{number:04}",
        incarnation=f"{os.getpid()}",
        gpu_type="cpu",
        vram_bytes=1 << 34,
        concurrency=max(1, concurrency),
    )
    await call.write(fleet_pb2.WorkerFrame(messages=[fleet_pb2.WorkerMessage(hello=hello)]))
    frames = aiter(call)
    first = await anext(frames)
    welcome = first.messages[0].welcome
    interval_seconds = welcome.heartbeat_interval_ms / 1000
    if not concurrency:
        interval_seconds *= idle_turns(welcome.lease_ms, welcome.heartbeat_interval_ms)
    running: dict[str, str] = {}
    sent: dict[int, float] = {}
    reading = asyncio.create_task(_read(frames, running, sent, beats))
    _note_assigned(first, running, beats)
    ready.set()
    began = time.perf_counter()
    sequence = 0
    # Spread over the interval, as workers that came one by one are.
    due = began + interval_seconds * (number % 1_000) / 1_000
    try:
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += interval_seconds
            sequence += 1
            metered_ms = int((time.perf_counter() - began) * 1000)
            attempts = [
                fleet_pb2.AttemptStatus(
                    attempt_id=attempt_id,
                    request_id=request_id,
                    state=types_pb2.REQUEST_STATE_RUNNING,
                    metered_ms=metered_ms,
                )
                for attempt_id, request_id in running.items()
            ]
            beat = fleet_pb2.Heartbeat(sequence=sequence, attempts=attempts)
            sent[sequence] = time.perf_counter()
            await call.write(
                fleet_pb2.WorkerFrame(messages=[fleet_pb2.WorkerMessage(heartbeat=beat)])
            )
    finally:
        reading.cancel()
        call.cancel()


async def _read(
    frames: AsyncIterator[fleet_pb2.SchedulerFrame],
    running: dict[str, str],
    sent: dict[int, float],
    beats: Beats,
) -> None:
    async for frame in frames:
        for message in frame.messages:
            if message.HasField("heartbeat_ack"):
                took = time.perf_counter() - sent.pop(message.heartbeat_ack.sequence)
                beats.acknowledged += 1
                beats.ack_ms.append(took * 1000)
        _note_assigned(frame, running, beats)


def _note_assigned(frame: fleet_pb2.SchedulerFrame, running: dict[str, str], beats: Beats) -> None:
    for message in frame.messages:
        if message.HasField("assign"):
            running[message.assign.attempt_id] = message.assign.request_id
            beats.assigned += 1
            if beats.assigned == beats.expected:
                beats.all_assigned.set()


@contextlib.asynccontextmanager
async def attached(
    grpc_address: str, folder: Path, workers: int, concurrency: int, beats: Beats
) -> AsyncIterator[None]:
    key = (folder / "worker.key").read_text().strip()
    async with contextlib.AsyncExitStack() as stack:
        stubs = [
            FleetStub(
                await stack.enter_async_context(
                    # Without an option of its own a second channel shares the first's connection.
                    grpc.aio.insecure_channel(
                        grpc_address, options=(*CHANNEL_OPTIONS, ("bench.channel", number))
                    )
                )
            )
            for number in range(CHANNELS)
        ]
        tasks: list[asyncio.Task[None]] = []
        try:
            for start in range(0, workers, AT_ONCE):
                some = [asyncio.Event() for _ in range(start, min(start + AT_ONCE, workers))]
                for offset, ready in enumerate(some):
                    number = start + offset
                    task = asyncio.create_task(
                        worker(stubs[number % CHANNELS], key, number, concurrency, beats, ready)
                    )
                    tasks.append(task)
                await asyncio.gather(*(ready.wait() for ready in some))
            yield
            failed = [task for task in tasks if task.done()]
            assert not failed, f"{len(failed)} of {workers} streams ended: {failed[0]}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def submit(grpc_address: str, key: str, count: int) -> None:
    """Requests for the workers to hold; nobody waits for them."""
    async with grpc.aio.insecure_channel(grpc_address, options=CHANNEL_OPTIONS) as channel:
        stub = InferenceStub(channel)
        message = inference_pb2.SubmitRequest(model=NOOP.id, input_json="{}")
        metadata = (("authorization", f"Key {key}"),)
        for start in range(0, count, FRAME_MESSAGES_MAX):
            wanted = min(FRAME_MESSAGES_MAX, count - start)
            await asyncio.gather(*(stub.Submit(message, metadata=metadata) for _ in range(wanted)))


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    beats = Beats()
    scheduler = part(
        folder,
        "scheduler",
        ("--data-dir", str(folder), "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
    )
    async with scheduler as listening:
        process_id = int(listening["pid"])
        admin = (folder / "admin.key").read_text().strip()
        async with AsyncClient(grpc=listening["grpc"], key=admin) as client:
            await client.models.register(NOOP)
        async with attached(listening["grpc"], folder, arguments.workers, arguments.running, beats):
            if wanted := arguments.workers * arguments.running:
                beats.expected = wanted
                await submit(listening["grpc"], admin, wanted)
                await beats.all_assigned.wait()
            await asyncio.sleep(4.0)  # every worker's first heartbeat
            beats.acknowledged = 0
            beats.ack_ms.clear()
            before, began = thread_seconds(process_id), time.perf_counter()
            await asyncio.sleep(arguments.seconds)
            all_seconds, most_seconds = spent_between(before, thread_seconds(process_id))
            seconds = time.perf_counter() - began
    assert beats.acknowledged > 0.2 * arguments.workers * arguments.seconds, beats.acknowledged
    return {
        "heartbeats_per_second": beats.acknowledged / seconds,
        "core_share": all_seconds / seconds,
        "busiest_thread_share": most_seconds / seconds,
        "cpu_us_per_heartbeat": 1e6 * all_seconds / beats.acknowledged,
        "ack_ms_p50": quantile(beats.ack_ms, 0.50),
        "ack_ms_p99": quantile(beats.ack_ms, 0.99),
    }


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.heartbeats",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for (20)")
    parser.add_argument("--running", type=int, default=0, help="attempts that each holds (0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
        results = asyncio.run(measure(arguments, Path(folder)))
    record("heartbeats", vars(arguments), results)


if __name__ == "__main__":
    main()
