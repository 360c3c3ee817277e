"""The parts of one worker process, wired together, from start to drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING
from uuid import uuid4

from quickthaw.wire import errors
from quickthaw.wire.blob_store import check_blob_store, open_blob_store
from quickthaw.wire.dialling import Dialler
from quickthaw.wire.limits import CHANNEL_OPTIONS
from quickthaw.wire.own_certificate import OwnCertificate
from quickthaw.wire.process import watch_loop_lag
from quickthaw.worker.agent import Agent, Identity, Patience
from quickthaw.worker.artifacts import ArtifactStore
from quickthaw.worker.device import DeviceChoice, build_host
from quickthaw.worker.engine import DiffusionEngine
from quickthaw.worker.families import BATCHING, NOOP
from quickthaw.worker.families.noop import NoopEngine
from quickthaw.worker.hints import Hints
from quickthaw.worker.line import Line
from quickthaw.worker.machine import AttemptMachine
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.outbox import Outbox
from quickthaw.worker.peers import PeerServer
from quickthaw.worker.ports import Engine
from quickthaw.worker.prefetching import Prefetcher
from quickthaw.worker.residency import Resident, TierSpeeds
from quickthaw.worker.settings import WorkerSettings
from quickthaw.worker.shell import Shell
from quickthaw.worker.version import product_version

if TYPE_CHECKING:
    from quickthaw.snapshot.prepared import Prepared

logger = logging.getLogger(__name__)

# gRPC waits up to two minutes between its own attempts to connect, longer than a lease; the agent
# has its own backoff, and a new stream must be a new attempt.
_RECONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

STOP_SECONDS = 10.0
"""For preparation to end, and for runs to notice that they are cancelled, before the process goes
anyway."""


class Worker:
    """One worker. Make it on the event loop it runs on; `on_ready` is called once, when requests
    can be taken. Raises SettingsInvalid if the blob store cannot be opened or the files behind TLS
    cannot be used, and `run` if the blob store cannot be used."""

    def __init__(
        self,
        settings: WorkerSettings,
        choice: DeviceChoice,
        on_ready: Callable[[], None],
        patience: Patience | None = None,
        slab_file: int | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self.metrics = WorkerMetrics()
        self._outbox = Outbox(
            settings.events_max, lambda kind: self.metrics.events_dropped.labels(kind).inc()
        )
        self._peers = _open_peers(settings, self.metrics)
        speeds = TierSpeeds()
        self._noop = NoopEngine(time.monotonic)
        self._prefetcher = Prefetcher(lambda: self.shell.machine.idle, self.metrics)
        self._torch_families = frozenset(settings.families) - {NOOP}
        store = ArtifactStore(open_blob_store(settings.blob_store), settings.blob_store)
        self._diffusion = DiffusionEngine(
            lambda: build_host(
                settings,
                choice,
                lambda tier: self.metrics.evictions.labels(tier.label).inc(),
                slab_file,
                prepared,
                self.metrics,
                self._peers,
                store.read_input_to,
            ),
            settings.concurrency,
            time.monotonic,
            speeds,
            self._on_residency,
            prefetcher=self._prefetcher,
            batch_max=settings.batch_max,
            read_blob=store.read_input,
            video_codec=settings.video_codec,
        )
        self.shell = Shell(
            AttemptMachine(
                settings.concurrency,
                settings.attempts_max,
                settings.batch_max,
                settings.ready_max,
                settings.overtakes_max,
            ),
            self._engine_for,
            store,
            self._outbox,
            self.metrics,
        )
        self._line = Line(
            Dialler(
                str(settings.scheduler),
                settings.scheduler_tls,
                [*CHANNEL_OPTIONS, *_RECONNECT_OPTIONS],
            )
        )
        self._agent = Agent(
            self._line,
            settings.key,
            Identity(
                worker_id=settings.worker_id,
                incarnation=uuid4().hex,
                gpu_type=choice.gpu_type,
                vram_bytes=choice.vram_bytes,
                pinned_bytes=choice.pinned_bytes,
                concurrency=settings.concurrency,
                batch_max=settings.batch_max,
                batch_families=BATCHING if settings.batch_max > 1 else (),
                version=product_version(),
                labels=dict(settings.labels),
                peer_url=self._peers.url if self._peers else "",
                peer_token=self._peers.token if self._peers else "",
            ),
            self.shell,
            self._outbox,
            self.metrics,
            time.monotonic,
            Random(),
            patience or Patience(),
            speeds,
            Hints(self.shell, self._diffusion, self._prefetcher),
        )
        self._signals = 0
        self._terminated = asyncio.Event()
        self._cancelled = asyncio.Event()

    def _on_residency(self, lines: list[Resident]) -> None:
        self._agent.set_residency(lines)

    def _engine_for(self, family: str) -> Engine:
        if family == NOOP and NOOP in self._settings.families:
            return self._noop
        if family in self._torch_families:
            return self._diffusion
        raise errors.FailedPrecondition(
            f"this worker does not run the family {family!r}; it runs "
            f"{', '.join(self._settings.families)}"
        )

    def terminate(self) -> None:
        """SIGTERM: drain; the second time: cancel."""
        self._signals += 1
        self._terminated.set()
        if self._signals > 1:
            self._cancelled.set()

    async def run(self) -> None:
        """Until drained. Raises an error of the tree if it cannot go on."""
        lag = asyncio.create_task(watch_loop_lag(self.metrics.loop_lag_seconds))
        checking = asyncio.create_task(check_blob_store(self._settings.blob_store))
        agent = asyncio.create_task(self._attach(checking))
        life = asyncio.create_task(self._live(checking))
        try:
            await asyncio.wait((agent, life), return_when=asyncio.FIRST_COMPLETED)
            if agent.done() and not life.done():
                agent.result()  # raises: the agent returns by itself only after `leave`
            await life
            await agent
        finally:
            for task in (lag, life, agent):
                task.cancel()
            await asyncio.gather(lag, life, agent, return_exceptions=True)
            await self._line.close()

    async def _attach(self, checking: asyncio.Task[str]) -> None:
        self._agent.blob_store_mark = await asyncio.shield(checking)
        await self._agent.run()

    async def _live(self, checking: asyncio.Task[str]) -> None:
        stops = [
            asyncio.create_task(event.wait())
            for event in (self._terminated, self._agent.stop_when_idle)
        ]
        preparing = asyncio.create_task(self._prepare(checking))
        start = asyncio.create_task(self._start(preparing))
        try:
            await asyncio.wait((start, *stops), return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                self._on_ready()
                await self._until_told_to_stop()
        finally:
            for task in (start, *stops):
                task.cancel()
        await self._drain()
        # Preparation may still hold the loader's thread; it cannot be interrupted.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.shield(preparing)
        await self._agent.leave()
        if self._peers is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._peers.close)
        if preparing.done() and self.shell.machine.idle:
            await self._diffusion.close()  # otherwise a thread hangs, and ends with the process

    async def _start(self, preparing: asyncio.Task[None]) -> None:
        await asyncio.shield(preparing)
        await self._agent.welcomed.wait()

    async def _prepare(self, checking: asyncio.Task[str]) -> None:
        if self._torch_families:
            await asyncio.gather(checking, self._diffusion.start(self._settings.prepare))
        else:
            await checking

    async def _until_told_to_stop(self) -> None:
        """SIGTERM, or the scheduler's DrainWorker once nothing is left to run."""
        while not self._terminated.is_set():
            self.shell.changed.clear()
            if self._agent.stop_when_idle.is_set() and self.shell.machine.idle:
                return
            waits = [asyncio.create_task(self._terminated.wait())]
            waits.append(
                asyncio.create_task(
                    self.shell.changed.wait()
                    if self._agent.stop_when_idle.is_set()
                    else self._agent.stop_when_idle.wait()
                )
            )
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()

    async def _drain(self) -> None:
        self._agent.refuse_assignments("the worker is shutting down")
        limit = self._settings.drain_seconds
        logger.info("draining: up to %.0f s for what runs", limit)
        if not await self._settled(limit, until_cancelled=True):
            self._agent.cancel_all("the worker was told to stop")
            if not await self._settled(STOP_SECONDS, until_cancelled=False):
                logger.warning("left with attempts that did not stop or were not acknowledged")

    async def _settled(self, limit_seconds: float, *, until_cancelled: bool) -> bool:
        """Whether everything has ended and was acknowledged in time."""
        cancelled = asyncio.create_task(self._cancelled.wait())
        try:
            async with asyncio.timeout(limit_seconds):
                while not (self.shell.machine.idle and not self.shell.machine.unacknowledged()):
                    if until_cancelled and self._cancelled.is_set():
                        return False
                    self.shell.changed.clear()
                    changed = asyncio.create_task(self.shell.changed.wait())
                    waits = {changed, cancelled} if until_cancelled else {changed}
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    changed.cancel()
                return True
        except TimeoutError:
            return False
        finally:
            cancelled.cancel()


def _certificate_for_peers(settings: WorkerSettings) -> OwnCertificate | None:
    tls = settings.scheduler_tls if settings.peers_tls else None
    if tls is None or tls.certificate is None or tls.key is None:
        return None
    return OwnCertificate(tls.certificate, tls.key)


def _open_peers(settings: WorkerSettings, metrics: WorkerMetrics) -> PeerServer | None:
    if settings.peers is None:
        return None
    server = PeerServer(
        settings.peers,
        url=settings.peers_url,
        streams_max=settings.peer_streams,
        timeout_seconds=settings.peer_seconds,
        certificate=_certificate_for_peers(settings),
    )
    server.on_sent = metrics.peer_sent_bytes.inc
    return server
