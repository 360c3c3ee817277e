"""The inside of a lane's process: opens the loader, then answers orders until the pipe closes."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import assert_never

from quickthaw.cli.bench.lanes import (
    Answer,
    Failed,
    Lane,
    Order,
    Outcome,
    Prepare,
    Ran,
    Ready,
    Run,
    Settings,
)
from quickthaw.cli.bench.loopback import FOLDER
from quickthaw.cli.bench.peers.base import FileMappings, Peer, Tensors
from quickthaw.cli.bench.rows import FLOORS, FRESH, QUICKTHAW, From

WRONG_LINES_MAX = 5


def serve(pipe: Connection[Answer, Order], settings: Settings) -> None:
    """The target of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends everybody
    log = os.open(settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    if settings.peer is not None:
        os.environ.update(settings.peer.environment)
    try:
        lane = _open(settings)
        gc.collect()
        gc.freeze()  # as a worker does: no load pays for walking what was imported before it
    except BaseException as error:
        pipe.send(_failed(error))
        return
    pipe.send(Ready())
    while True:
        try:
            order = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_answer(lane, order))


def _answer(lane: Lane, order: Order) -> Answer:
    try:
        match order:
            case Prepare():
                lane.prepare(order.start)
                gc.collect()
                return Ready()
            case Run():
                try:
                    outcome = lane.run(order.start, verify=order.verify)
                    wrong = lane.wrong()
                finally:
                    lane.clear()
                    _give_memory_back()
                return Ran(outcome, tuple(wrong[:WRONG_LINES_MAX]))
            case _:
                assert_never(order)
    except Exception as error:
        return _failed(error)


def _give_memory_back() -> None:
    """Every load is a first load: what malloc would keep of the last one goes to the kernel."""
    gc.collect()
    # Other C libraries keep less, and have no such call.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _failed(error: BaseException) -> Failed:
    import traceback

    traceback.print_exc(file=sys.stderr)
    sys.stderr.flush()
    text = " ".join(str(error).split())
    return Failed(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _open(settings: Settings) -> Lane:
    import torch

    torch.set_num_threads(settings.torch_threads)
    match settings.lane:
        case name if name == FLOORS:
            return _FloorLane(settings)
        case name if name == QUICKTHAW:
            from quickthaw.cli.bench.ours import Resident

            return Resident(settings)
        case name if name == FRESH:
            from quickthaw.cli.bench.ours import Fresh

            return Fresh(settings)
        case _:
            assert settings.peer is not None, "every other lane is a peer's"
            return _PeerLane(settings, settings.peer)


class _FloorLane:
    def __init__(self, settings: Settings) -> None:
        from quickthaw.cli.bench.floors import Floors

        floors = Floors(list(settings.subject.files.values()), settings.device, settings.url)
        self._how = {From.DISK: floors.disk_depth.words}
        if floors.http_depth is not None:
            self._how[From.REMOTE] = floors.http_depth.words
        self._runs = {
            From.DISK: floors.direct,
            From.PAGE_CACHE: floors.page_cache,
            From.PINNED: floors.to_device,
            From.REMOTE: floors.remote,
        }

    def prepare(self, start: From) -> None:
        """Floors keep no state."""

    def run(self, start: From, *, verify: bool) -> Outcome:
        cpu, began = time.process_time(), time.perf_counter()
        self._runs[start]()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        return Outcome(seconds, cpu, how=self._how.get(start, ""))

    def wrong(self) -> list[str]:
        return []

    def clear(self) -> None:
        """Floors keep no tensors."""


class _PeerLane:
    def __init__(self, settings: Settings, peer: Peer) -> None:
        self._peer = peer
        self._subject = settings.subject
        self._device = settings.device
        self._url = settings.url
        self._peer.convert(self._subject)
        self._opened = self._peer.open(self._subject, settings.device)
        self._tensors: Tensors = {}

    def prepare(self, start: From) -> None:
        self._opened.before()

    def run(self, start: From, *, verify: bool) -> Outcome:
        cpu, began = time.process_time(), time.perf_counter()
        self._tensors = self._load(start)
        return Outcome(time.perf_counter() - began, time.process_time() - cpu)

    def _load(self, start: From) -> Tensors:
        if start is not From.REMOTE:
            return self._opened.load()
        if self._opened.fetch is None:
            raise RuntimeError("it cannot load from a web server")
        return self._opened.fetch(f"{self._url}/{FOLDER}")

    def wrong(self) -> list[str]:
        from quickthaw.cli.bench.subject import differences

        found: list[str] = []
        mapped = FileMappings() if self._device == "cpu" else None
        for name, expected in self._subject.expected.items():
            tensors = self._tensors.get(name, {})
            without = self._subject.made[name] if self._peer.covers == "state_dict" else frozenset()
            found += [f"{name}: {line}" for line in differences(expected, tensors, without=without)]
            if mapped is not None:
                found += [
                    f"{name}: {key} is a view of a mapped file, so nothing of it was loaded"
                    for key, tensor in tensors.items()
                    if tensor.numel() and mapped.hold(tensor.data_ptr())
                ]
        return found

    def clear(self) -> None:
        self._tensors = {}
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()
