"""How fast the platform itself is: journalled no-op requests, beside Ray Serve's no-op deployment.

    python -m bench.scheduler [--rounds 5] [--seconds 4] [--callers 64] [--without-ray]
        [--compiled]

Ours is the whole path of a request, each step in its own process: the caller's gRPC (a `Run` for a
lone caller, one `RunMany` stream for many in a process, and for comparison a `Run` each), the
admission, placement, a worker's stream, the worker's `noop` family, and one commit (SQLite, full
sync) before the answer, with the request, its attempt, the ledger line and the terminal state: of a
Run without an idempotency key nobody is told anything before its end. Ray Serve's is a deployment
handle called from the driver: no journal, no bill. `--compiled` builds the wheel with the
scheduler's core compiled, as docs/operations.md has it, and runs the scheduler from that. All stay
up for the whole run and are measured in turn, so that a drift of the machine meets all. `fdatasync`
of the same disk is printed beside the rates, because it bounds ours.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from bench.cpu import spent_between, thread_seconds
from bench.support import record

from quickthaw.cli.up.process import Command, Process
from quickthaw.client import AsyncClient, Model
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.v1.inference_pb2_grpc import InferenceStub
from quickthaw.wire.limits import CHANNEL_OPTIONS

NOOP = Model(
    id="bench/noop",
    family="noop",
    snapshot_digest="",
    snapshot_uri="",
    components=(),
    working_bytes=0,
    input_schema={"type": "object"},
)
FDATASYNC_ROUNDS = 200
WARM_UP_SECONDS = 1.0
LATENCY_CALLS = 100

NoOp = Callable[[], Awaitable[None]]
"""One call; raises unless it succeeded."""


@dataclass(frozen=True, slots=True)
class System:
    """`single` is how a lone caller calls, `among_many` how one of many in a process does."""

    single: NoOp
    among_many: NoOp
    parts: Mapping[str, int] = field(default_factory=dict)
    """Its processes, whose cost is counted; the caller's own is this one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one system."""

    requests_per_second: float
    latency_ms_p50: float
    """Of single calls, one after the other: what the platform adds to a model's run."""
    latency_ms_p99: float
    cpu_us: Mapping[str, float]
    """Processor time of a request under load by part, the children of each included."""


def fdatasync_ms(folder: Path) -> list[float]:
    """Durations of appending 4 KiB and syncing it, as a journal does."""
    block = os.urandom(4096)
    durations = []
    with (folder / "fdatasync").open("wb", buffering=0) as file:
        for _ in range(FDATASYNC_ROUNDS):
            file.write(block)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            durations.append((time.perf_counter() - began) * 1000)
    return durations


@asynccontextmanager
async def part(
    folder: Path, name: str, arguments: tuple[str, ...], wheel: Path | None = None
) -> AsyncIterator[dict[str, str]]:
    """One process of the platform, ended with the block; its id and its ready line's values.
    Its code is `wheel`'s, an unpacked one, or what is installed."""
    process = await Process.start(
        Command(
            name,
            (f"quickthaw.{name}", *arguments),
            f"quickthaw-{name}",
            folder / f"{name}.log",
            {"PYTHONPATH": str(wheel)} if wheel else {},
        )
    )
    try:
        yield {**await process.ready(), "pid": str(process.pid)}
    finally:
        await process.stop(grace_seconds=10)


def compiled_wheel(folder: Path) -> Path:
    """Builds it, for a minute or two, and unpacks it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"},
        check=True,
        stdout=sys.stderr,
    )
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "wheel")
    return folder / "wheel"


@asynccontextmanager
async def quickthaw_noop(
    folder: Path, callers: int, wheel: Path | None = None
) -> AsyncIterator[System]:
    scheduler = part(
        folder,
        "scheduler",
        ("--data-dir", str(folder), "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
        wheel,
    )
    async with scheduler as listening:
        assert wheel is None or listening["core"] == "compiled", listening
        worker = part(
            folder,
            "worker",
            (
                *("--scheduler", listening["grpc"], "--key-file", str(folder / "worker.key")),
                *("--worker-id", "bench", "--data-dir", str(folder / "worker")),
                *("--blob-store", str(folder / "blobs")),
                *("--device", "cpu", "--families", "noop"),
                *("--concurrency", str(callers), "--attempts-max", str(4 * callers)),
            ),
        )
        key = (folder / "admin.key").read_text().strip()
        async with (
            AsyncClient(grpc=listening["grpc"], key=key) as client,
            grpc.aio.insecure_channel(listening["grpc"], options=CHANNEL_OPTIONS) as channel,
        ):
            await client.models.register(NOOP)
            stub = InferenceStub(channel)
            submit = inference_pb2.SubmitRequest(model=NOOP.id, input_json="{}")
            metadata = (("authorization", f"Key {key}"),)

            async def single() -> None:
                request = await stub.Run(submit, metadata=metadata)
                assert request.state == types_pb2.REQUEST_STATE_SUCCEEDED, request
                assert request.receipt.request_id == request.request_id, request

            async with worker as started, client.run_many() as runs:
                parts = {
                    "caller": os.getpid(),
                    "scheduler": int(listening["pid"]),
                    "worker": int(started["pid"]),
                }

                async def among_many() -> None:
                    request = await runs.run(NOOP.id)
                    assert request.receipt is not None
                    assert request.receipt.request_id == request.request_id, request

                yield System(single, among_many, parts)


@asynccontextmanager
async def ray_serve_noop(callers: int) -> AsyncIterator[System]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    class Echo:
        async def __call__(self, text: str) -> str:
            return text

    deployment = serve.deployment(max_ongoing_requests=4 * callers)(Echo)
    handle = await asyncio.to_thread(serve.run, deployment.bind())

    async def call() -> None:
        assert await handle.remote("{}") == "{}"

    try:
        yield System(call, call)
    finally:
        await asyncio.to_thread(serve.shutdown)
        ray.shutdown()


async def rate(call: NoOp, callers: int, seconds: float) -> float:
    """Calls a second with `callers` of them under way."""
    until = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    assert done > 0
    return done / (time.perf_counter() - began)


async def latencies_ms(call: NoOp) -> list[float]:
    durations = []
    for _ in range(LATENCY_CALLS):
        began = time.perf_counter()
        await call()
        durations.append((time.perf_counter() - began) * 1000)
    return durations


async def sample(system: System, callers: int, seconds: float) -> Sample:
    single = await latencies_ms(system.single)
    before = cpu_seconds(system)
    per_second = await rate(system.among_many, callers, seconds)
    requests = per_second * seconds
    return Sample(
        per_second,
        statistics.median(single),
        statistics.quantiles(single, n=100)[98],
        {
            name: 1e6 * spent_between(before[name], after)[0] / requests
            for name, after in cpu_seconds(system).items()
        },
    )


def cpu_seconds(system: System) -> Mapping[str, Mapping[str, float]]:
    """By part and thread."""
    return {
        name: thread_seconds(process_id, with_children=process_id != os.getpid())
        for name, process_id in system.parts.items()
    }


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    samples: dict[str, list[Sample]] = {}
    wheel = compiled_wheel(folder) if arguments.compiled else None
    async with AsyncExitStack() as parts:
        systems: dict[str, System] = {}
        if not arguments.without_ray:
            # First, for it forks, which a process with gRPC's threads had better not.
            theirs = await parts.enter_async_context(ray_serve_noop(arguments.callers))
            systems["ray_serve"] = theirs
        ours = await parts.enter_async_context(quickthaw_noop(folder, arguments.callers, wheel))
        systems["quickthaw"] = ours
        systems["quickthaw, a call each"] = System(ours.single, ours.single, ours.parts)
        await alternate(systems, arguments, samples)
    sync_ms = fdatasync_ms(folder)
    results: dict[str, object] = {name: summary(each) for name, each in samples.items()}
    results["fdatasync_ms"] = {
        "p50": statistics.median(sync_ms),
        "p99": statistics.quantiles(sync_ms, n=100)[98],
    }
    if "ray_serve" in samples:
        ratios = [
            a.requests_per_second / b.requests_per_second
            for a, b in zip(samples["quickthaw"], samples["ray_serve"], strict=True)
        ]
        results["rate_over_ray_serve"] = spread(ratios)
    return results


async def alternate(
    systems: dict[str, System], arguments: argparse.Namespace, samples: dict[str, list[Sample]]
) -> None:
    for system in systems.values():
        await rate(system.among_many, arguments.callers, WARM_UP_SECONDS)
    for number in range(arguments.rounds):
        for name, system in systems.items():
            each = await sample(system, arguments.callers, arguments.seconds)
            samples.setdefault(name, []).append(each)
            print(
                f"round {number + 1}/{arguments.rounds} {name:22} "
                f"{each.requests_per_second:8.0f} requests/s, single call "
                f"{each.latency_ms_p50:.2f} ms (p99 {each.latency_ms_p99:.2f})"
                + "".join(f", {part} {us:.0f} us" for part, us in each.cpu_us.items()),
                file=sys.stderr,
            )


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(samples: list[Sample]) -> dict[str, object]:
    return {
        "requests_per_second": spread([each.requests_per_second for each in samples]),
        "latency_ms_p50": spread([each.latency_ms_p50 for each in samples]),
        "latency_ms_p99": spread([each.latency_ms_p99 for each in samples]),
        "cpu_us_per_request": {
            part: spread([each.cpu_us[part] for each in samples]) for part in samples[0].cpu_us
        },
    }


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.scheduler",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each system, in turn (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in a round (4)")
    parser.add_argument("--callers", type=int, default=64, help="requests under way at once (64)")
    parser.add_argument("--without-ray", action="store_true", help="measure ours alone")
    parser.add_argument("--compiled", action="store_true", help="the scheduler's core, by mypyc")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
        results = asyncio.run(measure(arguments, Path(folder)))
    names = ("rounds", "seconds", "callers", "compiled")
    parameters = {name: getattr(arguments, name) for name in names}
    name = "scheduler_compiled" if arguments.compiled else "scheduler"
    record(name, parameters, results, module="scheduler")


if __name__ == "__main__":
    main()
