"""The fleet's end of a worker host: one process of this machine that forks workers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from quickthaw.cli.up.process import Command, Output, Process
from quickthaw.wire.hosting import (
    Ended,
    HostGone,
    HostMessage,
    Receiver,
    Signal,
    Start,
    Started,
    encode,
    send,
)

NAME = "worker-host"
CLOSE_SECONDS = 5.0
LAST_WORDS_SECONDS = 5.0
"""For what a worker said before its end: something that it started may hold its pipes open."""


class HostedWorker:
    """A worker that the host was asked for."""

    def __init__(self, output: Output, streams: Sequence[asyncio.StreamReader]) -> None:
        self._output = output
        self._pumps = asyncio.create_task(output.pump(*streams))
        self._host_lines: tuple[str, ...] = ()
        loop = asyncio.get_running_loop()
        self.pid: asyncio.Future[int] = loop.create_future()
        self.status: asyncio.Future[int] = loop.create_future()

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What it said last; the host's words, if it ended before it could say anything."""
        return self._output.last_lines or self._host_lines

    async def ready(self) -> dict[str, str] | None:
        """The values of its ready line; None if it ended before."""
        either: set[asyncio.Future[Any]] = {self._output.ready, self._pumps}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._output.ready.done():
            return None
        await asyncio.wait((self.pid, self.status), return_when=asyncio.FIRST_COMPLETED)
        return self._output.ready.result()

    async def exited(self) -> int:
        """Waits for the end; the exit status, -N for signal N. What it said is logged then."""
        status = await asyncio.shield(self.status)
        await asyncio.wait({self._pumps}, timeout=LAST_WORDS_SECONDS)
        return status

    def host_ended(self, status: int, last_lines: tuple[str, ...]) -> None:
        """The host takes its workers along."""
        self._host_lines = last_lines
        if not self.status.done():
            self.status.set_result(status)


class WorkerHost:
    """A running host and its workers. Make it with `start`."""

    def __init__(self, process: Process, control: socket.socket, logs: Path) -> None:
        self._process = process
        self._control = control
        self._logs = logs
        self._receiver = Receiver(control)
        self._sending = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None
        self._workers: dict[str, HostedWorker] = {}
        asyncio.get_running_loop().add_reader(control, self._hear)
        self._end = asyncio.create_task(self._until_it_ends())

    @classmethod
    async def start(cls, module: str, logs: Path, arguments: tuple[str, ...] = ()) -> WorkerHost:
        """Returns at once: the host imports for some seconds. Raises OSError."""
        ours, its = socket.socketpair()
        ours.setblocking(False)
        command = Command(
            name=NAME,
            arguments=(module, "--control", str(its.fileno()), *arguments),
            ready_word="",
            log=logs / f"{NAME}.log",
            environment={},
            descriptors=(its.fileno(),),
        )
        with its:
            try:
                return cls(await Process.start(command), ours, logs)
            except BaseException:
                ours.close()
                raise

    @property
    def alive(self) -> bool:
        """Whether it can be asked; one that hung up may take a moment to end."""
        return self._control.fileno() >= 0

    async def start_worker(
        self, worker_id: str, arguments: tuple[str, ...], slab: int
    ) -> HostedWorker:
        """Returns when the host was asked; with one that is gone, the worker has ended at once.

        The slab's descriptor stays the caller's. Raises OSError if there are no pipes to be had.
        """
        output = Output(self._logs / f"{worker_id}.log", "quickthaw-worker")
        pipes = _pipes(2)
        try:
            streams = [await _reading(reader) for reader, _ in pipes]
            worker = self._workers[worker_id] = HostedWorker(output, streams)
            writers = [writer for _, writer in pipes]
            with suppress(ConnectionError):  # it is ending, and takes this one along
                await self._send(Start(worker_id, arguments), (*writers, slab))
        finally:
            for _, writer in pipes:
                os.close(writer)
        if self._end.done():
            self._take_along(self._end.result())
        return worker

    async def stop_worker(self, worker: HostedWorker, worker_id: str, grace_seconds: float) -> int:
        """SIGTERM, and SIGKILL if that takes longer than `grace_seconds`; the exit status. A host
        that passes on neither is killed."""
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, CLOSE_SECONDS)):
            await self._signal(worker_id, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await worker.exited()
        self.kill()
        return await worker.exited()

    async def close(self) -> None:
        """When its workers have ended."""
        self._hang_up()
        await self._process.stop(CLOSE_SECONDS)
        await self._end

    def kill(self) -> None:
        """Kills it, and its workers with it."""
        self._process.kill()

    async def _signal(self, worker_id: str, number: signal.Signals) -> None:
        with suppress(ConnectionError):  # the host is gone, and the worker with it
            await self._send(Signal(worker_id, number))

    async def _send(self, message: HostMessage, descriptors: Sequence[int] = ()) -> None:
        """Raises ConnectionError once the host has hung up."""
        data = encode(message)
        async with self._sending:
            while data:
                if not self.alive:
                    raise ConnectionResetError("the worker host has hung up")
                try:
                    data = data[send(self._control, data, descriptors) :]
                    descriptors = ()
                except BlockingIOError:
                    await self._writable()

    async def _writable(self) -> None:
        """Until it takes more, or has hung up."""
        loop = asyncio.get_running_loop()
        self._room = loop.create_future()
        loop.add_writer(self._control, self._room.set_result, None)
        try:
            await self._room
        finally:
            self._room = None
            if self.alive:
                loop.remove_writer(self._control)

    def _hear(self) -> None:
        try:
            messages = self._receiver.receive()
        except BlockingIOError:
            return
        except (HostGone, OSError):
            self._hang_up()
            self._process.kill()  # for a host that talks nonsense; most often it has ended
            return
        for message, _descriptors in messages:
            match message:
                case Started():
                    self._workers[message.worker_id].pid.set_result(message.pid)
                case Ended():
                    worker = self._workers.pop(message.worker_id)
                    worker.status.set_result(message.status)
                case Start() | Signal():
                    self._process.kill()

    async def _until_it_ends(self) -> int:
        status = await self._process.exited()
        if self.alive:
            self._hear()  # its last words
            self._hang_up()
        self._take_along(status)
        return status

    def _hang_up(self) -> None:
        if not self.alive:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._control)
        loop.remove_writer(self._control)
        self._control.close()
        self._receiver.close()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _take_along(self, status: int) -> None:
        for worker in self._workers.values():
            worker.host_ended(status, self._process.last_lines)
        self._workers.clear()


def _pipes(count: int) -> list[tuple[int, int]]:
    """Read and write descriptors. Raises OSError with none of them open."""
    made: list[tuple[int, int]] = []
    try:
        made.extend(os.pipe() for _ in range(count))
    except OSError:
        for descriptor in chain.from_iterable(made):
            os.close(descriptor)
        raise
    return made


async def _reading(descriptor: int) -> asyncio.StreamReader:
    """A pipe's end as a stream, which closes it at the end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb", buffering=0))
    return reader
