"""Many listeners to one request's events: what each costs, and how late events reach them.

    python -m bench.listeners [--listeners 2000] [--slow 50] [--events 100] [--per-second 2]

One gateway process; in front of it a scheduler that this benchmark plays, with one request whose
log lines are the events. Each listener is an SSE status stream on a connection of its own, half of
them WebSockets if asked for (`--websockets`). The slow ones stop reading after the first event. A
line tells when it was written, so a listener knows how late it is; everything runs on one machine,
so lateness includes this process's own reading. Memory is the gateway's, as the kernel has it. All
slow listeners must have been cut off in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import re
import resource
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import grpc
import grpc.aio
from bench.support import metric_value, quantile, record

from quickthaw.cli.up.process import Command, Process
from quickthaw.v1 import catalog_pb2, inference_pb2, types_pb2

# A string: the class is generic for the type checkers only.
Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"

MODEL = "bench/listened"
REQUEST_ID = "listened"
LINE_CHARS = 3000
SLOW_RECEIVE_BYTES = 4096
CONNECTING_AT_ONCE = 100
_WRITTEN = re.compile(rb"written (\d+\.\d+)")


class PlayedScheduler:
    """One request that runs and logs. `watches` counts those that are open."""

    def __init__(self) -> None:
        self.watches = 0
        self.ended = False
        self._events: list[inference_pb2.Event] = []
        self._news = asyncio.Condition()

    def record(self) -> types_pb2.Request:
        state = types_pb2.REQUEST_STATE_SUCCEEDED if self.ended else types_pb2.REQUEST_STATE_RUNNING
        return types_pb2.Request(request_id=REQUEST_ID, model=MODEL, state=state, attempts=1)

    async def emit(self, event: inference_pb2.Event) -> None:
        event.request_id, event.sequence = REQUEST_ID, len(self._events) + 1
        async with self._news:
            self._events.append(event)
            self._news.notify_all()

    async def log(self) -> None:
        text = f"written {time.time():.6f} ".ljust(LINE_CHARS, ".")
        line = inference_pb2.LogLine(level="info", text=text)
        await self.emit(inference_pb2.Event(log=line))

    async def end(self) -> None:
        self.ended = True
        await self.emit(inference_pb2.Event(finished=self.record()))

    async def get(self, request: inference_pb2.GetRequest, context: Context) -> types_pb2.Request:
        return self.record()

    async def get_model(
        self, request: catalog_pb2.GetModelRequest, context: Context
    ) -> catalog_pb2.Model:
        return catalog_pb2.Model(id=MODEL, input_schema_json="{}")

    async def watch(
        self, request: inference_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[inference_pb2.Event]:
        self.watches += 1
        seen = 0
        try:
            while True:
                async with self._news:
                    while len(self._events) == seen:
                        await self._news.wait()
                event = self._events[seen]
                seen += 1
                yield event
                if event.HasField("finished"):
                    return
        finally:
            self.watches -= 1


def handlers(played: PlayedScheduler) -> list[grpc.GenericRpcHandler]:
    """Of the three calls that a status stream leads to."""
    get = grpc.unary_unary_rpc_method_handler(
        played.get,
        inference_pb2.GetRequest.FromString,
        types_pb2.Request.SerializeToString,
    )
    watch = grpc.unary_stream_rpc_method_handler(
        played.watch,
        inference_pb2.WatchRequest.FromString,
        inference_pb2.Event.SerializeToString,
    )
    get_model = grpc.unary_unary_rpc_method_handler(
        played.get_model,
        catalog_pb2.GetModelRequest.FromString,
        catalog_pb2.Model.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(
            "quickthaw.v1.Inference", {"Get": get, "Watch": watch}
        ),
        grpc.method_handlers_generic_handler("quickthaw.v1.Catalog", {"GetModel": get_model}),
    ]


class Listener(asyncio.Protocol):
    """Counts lines and how late they are, in seconds. A slow one stops reading at the first."""

    def __init__(self, head: bytes, *, slow: bool) -> None:
        self.lateness: list[float] = []
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = head
        self._slow = slow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        if not self.began.done() and b"IN_PROGRESS" in data:
            self.began.set_result(None)
            if self._slow:
                self._transport.pause_reading()
        if not self.ended.done() and b"COMPLETED" in data:
            self.ended.set_result(None)
        # A line may lie across two reads, and is then not counted.
        self.lateness += [now - float(written) for written in _WRITTEN.findall(data)]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if not self.began.done():
            self.began.set_exception(ConnectionError("closed before its first event"))


async def listen(place: tuple[str, int], *, slow: bool, websocket: bool) -> Listener:
    path = f"/queue/{MODEL}/requests/{REQUEST_ID}/status/stream?logs=1"
    head = f"GET {path} HTTP/1.1\r\nHost: bench\r\n"
    if websocket:
        key = base64.b64encode(os.urandom(16)).decode()
        head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        head += f"Sec-WebSocket-Key: {key}\r\n"
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setblocking(False)
    if slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BYTES)
    await loop.sock_connect(connection, place)
    _, listener = await loop.create_connection(
        lambda: Listener(f"{head}\r\n".encode(), slow=slow), sock=connection
    )
    await listener.began
    return listener


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    played = PlayedScheduler()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(played))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    anywhere = "127.0.0.1:0"
    flags = ("--scheduler", f"127.0.0.1:{port}", "--http", anywhere, "--metrics", anywhere)
    gateway = await Process.start(
        Command(
            "gateway",
            ("quickthaw.gateway", *flags, "--stall-seconds", "5", "--drain-seconds", "1"),
            "quickthaw-gateway",
            folder / "gateway.log",
            {},
        )
    )
    try:
        ready = await gateway.ready()
        address = ready["http"]
        parts = urlsplit(address if "://" in address else f"//{address}")
        place = (parts.hostname or "127.0.0.1", parts.port or 0)
        results = await listened(arguments, played, place, gateway.pid)
        cut = await asyncio.to_thread(
            metric_value, ready["metrics"], "quickthaw_gateway_stalled_readers_total"
        )
        assert cut == arguments.slow, f"{cut} of {arguments.slow} slow readers were cut off"
        return {**results, "slow_listeners_cut_off": cut}
    finally:
        await gateway.stop(grace_seconds=10)
        await server.stop(None)


async def listened(
    arguments: argparse.Namespace, played: PlayedScheduler, place: tuple[str, int], pid: int
) -> dict[str, object]:
    first = await listen(place, slow=False, websocket=arguments.websockets)
    before_bytes, listeners = resident_bytes(pid), [first]
    slow: list[Listener] = []
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def add(index: int) -> None:
        async with gate:
            is_slow = index < arguments.slow
            is_websocket = arguments.websockets and index % 2 == 1
            listener = await listen(place, slow=is_slow, websocket=is_websocket)
            (slow if is_slow else listeners).append(listener)

    began = time.perf_counter()
    await asyncio.gather(*(add(index) for index in range(arguments.listeners - 1)))
    joined_seconds = time.perf_counter() - began
    assert played.watches == 1, played.watches
    joined_bytes, cpu_before = resident_bytes(pid), cpu_seconds(pid)
    highest_bytes = joined_bytes
    for number in range(arguments.events):
        await played.log()
        await asyncio.sleep(1 / arguments.per_second)
        highest_bytes = max(highest_bytes, resident_bytes(pid))
        if number % 10 == 9:
            print(f"{number + 1} events", file=sys.stderr)
    await played.end()
    async with asyncio.timeout(60):
        await asyncio.gather(*(listener.ended for listener in listeners))
    cpu = cpu_seconds(pid) - cpu_before
    lateness = [late for listener in listeners for late in listener.lateness]
    expected = arguments.events * len(listeners)
    assert len(lateness) >= 0.99 * expected, (len(lateness), expected)
    return {
        "listeners": len(listeners),
        "slow_listeners": len(slow),
        "watches_at_the_scheduler": 1,
        "joining_per_second": arguments.listeners / joined_seconds,
        "memory_kib_per_listener": (joined_bytes - before_bytes) / arguments.listeners / 1024,
        "memory_mib_before": before_bytes / 2**20,
        "memory_mib_highest": highest_bytes / 2**20,
        "cpu_microseconds_per_delivery": cpu / expected * 1e6,
        "lateness_ms_p50": quantile(lateness, 0.5) * 1000,
        "lateness_ms_p99": quantile(lateness, 0.99) * 1000,
        "lateness_ms_max": max(lateness) * 1000,
    }


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.listeners",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listeners", type=int, default=2000, help="all of them (2000)")
    parser.add_argument("--slow", type=int, default=50, help="that stop reading (50)")
    parser.add_argument("--events", type=int, default=100, help="lines that are logged (100)")
    parser.add_argument("--per-second", type=float, default=2.0, help="of them (2)")
    parser.add_argument("--websockets", action="store_true", help="half of the listeners")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
        results = asyncio.run(measure(arguments, Path(folder)))
    names = ("listeners", "slow", "events", "per_second", "websockets")
    record("listeners", {name: getattr(arguments, name) for name in names}, results)


if __name__ == "__main__":
    main()
