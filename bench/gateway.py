"""What the HTTP gateway adds to a call over gRPC, on loopback.

    python -m bench.gateway [--rounds 5] [--calls 100]

The same request that runs nothing (family `noop`, one worker), one after the other on open
connections, the ways in turn: gRPC's `Run` and HTTP's `POST /run/...`, which begin before they are
durable; gRPC's `Submit` and `Watch` and a prediction of Replicate's API with `Prefer: wait`, which
can be asked for later and so are durable first. All of them are placed, run and billed in full.
`added_ms_p50` is the median of an HTTP way less that of its gRPC counterpart in the same round;
`fdatasync` of the same disk is printed beside them, because an end is durable before it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import httpcore
from bench.scheduler import NOOP, fdatasync_ms, part
from bench.support import quantile, record

from quickthaw.client import AsyncClient
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.v1.inference_pb2_grpc import InferenceStub
from quickthaw.wire.limits import CHANNEL_OPTIONS

WARM_UP_CALLS = 50
TARGET_ADDED_MS = 3.0
COUNTERPARTS = {"run": "grpc_run", "replicate": "grpc_submit"}

Headers = Mapping[bytes | str, bytes | str]
Call = Callable[[], Awaitable[None]]
"""One request to its end; raises unless it succeeded."""


def over_http(
    pool: httpcore.AsyncConnectionPool, url: str, headers: Headers, body: bytes, sign: bytes
) -> Call:
    """`sign` is what the answer holds if the run has succeeded."""

    async def call() -> None:
        answer = await pool.request("POST", url, headers=headers, content=body)
        assert answer.status in (200, 201), (answer.status, answer.content)
        assert sign in answer.content, answer.content

    return call


@asynccontextmanager
async def ways(folder: Path) -> AsyncIterator[dict[str, Call]]:
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
        await stack.enter_async_context(part(folder, "worker", worker))
        key_file = folder / "admin.key"
        gateway = ("--scheduler", scheduler["grpc"], "--http", anywhere, "--key-file")
        front = await stack.enter_async_context(part(folder, "gateway", (*gateway, str(key_file))))
        key = key_file.read_text(encoding="ascii").strip()
        async with AsyncClient(grpc=scheduler["grpc"], key=key) as client:
            await client.models.register(NOOP)
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(scheduler["grpc"], options=CHANNEL_OPTIONS)
        )
        stub = InferenceStub(channel)
        submit = inference_pb2.SubmitRequest(model=NOOP.id, input_json="{}")

        async def over_grpc() -> None:
            request = await stub.Run(submit, metadata=(("authorization", f"Key {key}"),))
            assert request.state == types_pb2.REQUEST_STATE_SUCCEEDED, request

        async def submit_and_watch() -> None:
            metadata = (("authorization", f"Key {key}"),)
            accepted = await stub.Submit(submit, metadata=metadata)
            watch = inference_pb2.WatchRequest(request_id=accepted.request_id)
            states = [event.finished.state async for event in stub.Watch(watch, metadata=metadata)]
            assert states[-1] == types_pb2.REQUEST_STATE_SUCCEEDED, states

        base = front["http"] if "://" in front["http"] else f"http://{front['http']}"
        pool = await stack.enter_async_context(httpcore.AsyncConnectionPool())
        headers: Headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        replicate = f"{base}/replicate/v1/models/{NOOP.id}/predictions"
        yield {
            "grpc_run": over_grpc,
            "grpc_submit": submit_and_watch,
            "run": over_http(pool, f"{base}/run/{NOOP.id}", headers, b"{}", b"receipt"),
            "replicate": over_http(
                pool, replicate, {**headers, "prefer": "wait"}, b'{"input":{}}', b'"succeeded"'
            ),
        }


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    async with ways(folder) as calls:
        rounds: dict[str, list[list[float]]] = {way: [] for way in calls}
        for call in calls.values():
            for _ in range(WARM_UP_CALLS):
                await call()
        for number in range(arguments.rounds):
            for way in calls:
                rounds[way].append([])
            for _ in range(arguments.calls):
                for way, call in calls.items():
                    began = time.perf_counter()
                    await call()
                    rounds[way][-1].append((time.perf_counter() - began) * 1000)
            medians = {way: statistics.median(each[-1]) for way, each in rounds.items()}
            told = "  ".join(f"{way} {median:.2f} ms" for way, median in medians.items())
            print(f"round {number + 1}/{arguments.rounds}  {told}", file=sys.stderr)
    results: dict[str, object] = {
        way: summary(each, rounds[COUNTERPARTS.get(way, way)]) for way, each in rounds.items()
    }
    return {**results, "fdatasync_ms_p50": statistics.median(fdatasync_ms(folder))}


def summary(rounds: list[list[float]], direct: list[list[float]]) -> dict[str, object]:
    everything = [value for each in rounds for value in each]
    added = [
        statistics.median(each) - statistics.median(base)
        for each, base in zip(rounds, direct, strict=True)
    ]
    return {
        "call_ms_p50": statistics.median(everything),
        "call_ms_p90": quantile(everything, 0.9),
        "added_ms_p50": {
            "median": statistics.median(added),
            "min": min(added),
            "max": max(added),
            "target_max": TARGET_ADDED_MS,
        },
    }


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--calls", type=int, default=100, help="of each way in a round (100)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
        results = asyncio.run(measure(arguments, Path(folder)))
    record("gateway", {"rounds": arguments.rounds, "calls": arguments.calls}, results)


if __name__ == "__main__":
    main()
