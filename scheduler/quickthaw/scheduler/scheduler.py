"""The scheduler as one object: everything wired, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

import grpc.aio

from quickthaw.scheduler import bootstrap
from quickthaw.scheduler.artifacts import Artifacts
from quickthaw.scheduler.auth import AuthInterceptor
from quickthaw.scheduler.background import Background
from quickthaw.scheduler.catalog import Catalog
from quickthaw.scheduler.clock import Clock, SystemClock
from quickthaw.scheduler.convert.requests import WatchPayload
from quickthaw.scheduler.core.events import PricesChanged
from quickthaw.scheduler.decision_log import DecisionLog
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.events_log import EventLimits, EventsLog
from quickthaw.scheduler.explanations import ExplanationLimits, Explanations
from quickthaw.scheduler.key_files import provide_key_files
from quickthaw.scheduler.key_uses import note_uses
from quickthaw.scheduler.keys import KeyRecord, KeyRing
from quickthaw.scheduler.live import LiveRequests
from quickthaw.scheduler.loras import LoraPlaces
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.scheduler.prices import load_prices, watch_prices
from quickthaw.scheduler.retention import KeepTimes, Retention
from quickthaw.scheduler.scrape import snapshot_reader
from quickthaw.scheduler.server import Health, listen, make_server
from quickthaw.scheduler.services import Parts, add_services
from quickthaw.scheduler.settings import Limits, Settings
from quickthaw.scheduler.store.journal import JournalLimits
from quickthaw.scheduler.store.keys import key_record
from quickthaw.scheduler.store.recovery import tenant_weights
from quickthaw.scheduler.store.store import Store, open_store
from quickthaw.scheduler.worker_streams import WorkerStreams
from quickthaw.wire import errors
from quickthaw.wire.blob_store import open_blob_store
from quickthaw.wire.process import Address, serve_metrics, watch_loop_lag
from quickthaw.wire.tls import server_credentials

logger = logging.getLogger(__name__)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(slots=True)
class Scheduler:
    """A running scheduler. Make it with `start`; `stop` it once."""

    grpc_address: Address
    local_address: Address | None
    """In plain text, for this machine; None without `--grpc-local`."""
    metrics_address: Address
    dispatcher: Dispatcher
    explanations: Explanations
    retention: Retention
    background: Background
    _settings: Settings
    _server: grpc.aio.Server
    _metrics_server: WSGIServer
    _health: Health
    _store: Store
    _streams: WorkerStreams
    _decision_log: DecisionLog | None

    async def stop(self) -> None:
        """Lets commits in flight end and tells everyone who waits that we go; keeps everything
        that was accepted for the next start."""
        why = errors.Unavailable(
            "the scheduler is shutting down; try again", retry_delay_seconds=1.0
        )
        await self._health.set_serving(False)
        self.background.stop()
        self.dispatcher.stop(why)
        if self._decision_log is not None:
            self._decision_log.close()
        self._streams.close_all(why)
        await self._server.stop(self._settings.limits.stop_grace_ms / 1000)
        await self._store.close()
        await asyncio.to_thread(self._metrics_server.shutdown)
        self._metrics_server.server_close()


async def start(settings: Settings, clock: Clock | None = None) -> Scheduler:
    """Serving when this returns. Raises SettingsInvalid, AddressInUse, FailedPrecondition (store in
    use, or from a newer release), StoreUnavailable, StorageFull."""
    clock = clock or SystemClock()
    limits = settings.limits
    prices = load_prices(settings.prices)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    blobs = open_blob_store(settings.blob_store)
    metrics = SchedulerMetrics(settings.tenant_classes)
    loop = asyncio.get_running_loop()

    async def load_key(key_id: str) -> KeyRecord | None:
        return await store.reader.run(lambda connection: key_record(connection, key_id))

    def on_fault(faulty: bool) -> None:
        metrics.store_faulty.set(faulty)
        background.start(health.set_serving(not faulty), "health")

    keys = KeyRing(load_key, limits.key_cache_max)
    auth = AuthInterceptor(keys, clock, limits.keyless_rpcs_max)
    server = make_server(auth, metrics, limits.rpcs_max, limits.keyless_rpcs_max)
    # Before the store, for which a standby may wait for long.
    credentials = server_credentials(settings.tls) if settings.tls is not None else None
    health = Health(server)
    background = Background()
    stop = threading.Event()
    try:
        store = await asyncio.to_thread(
            open_store,
            settings.store_url,
            readers=limits.store_readers,
            lock_wait_seconds=limits.store_lock_wait_ms / 1000,
            limits=JournalLimits(
                limits.journal_batch_max,
                limits.journal_waiting_max,
            ),
            stop=stop,
            on_commit=metrics.commit,
            on_fault=on_fault,
            on_taken_over=background.fail,
        )
    except asyncio.CancelledError:
        stop.set()
        raise
    store.journal.start()
    try:
        # Not before: who calls a standby is to be refused at once, and goes to its other address.
        grpc_address = listen(server, settings.grpc, credentials)
        local_address = listen(server, settings.grpc_local) if settings.grpc_local else None
        metrics_server, metrics_address = serve_metrics(metrics.registry, settings.metrics)
    except errors.QuickthawError:
        await store.close()
        raise
    await provide_key_files(settings, store, clock)
    catalog = Catalog(limits.models_max)
    await bootstrap.load_catalog(store, catalog)
    weights = await store.reader.run(tenant_weights)
    streams = WorkerStreams(
        limits.worker_outbound_max, unread_seconds=limits.heartbeat_interval_ms / 2000
    )
    core = bootstrap.core_settings(settings, weights)
    estimates = await bootstrap.recall_estimates(store, limits, core)
    machine, decision_log = bootstrap.make_machine(settings, core, prices, estimates)
    explanations = Explanations(
        machine,
        store.journal,
        store.reader,
        ExplanationLimits(limits.explanations_per_second_max, limits.explanations_max),
    )
    dispatcher = Dispatcher(
        machine=machine,
        journal=store.journal,
        clock=clock,
        live=LiveRequests(limits.queued_input_bytes_max),
        queue_max=limits.queue_max,
        log=_events_log(limits),
        outbox=streams,
        metrics=metrics,
        tick_seconds=limits.tick_ms / 1000,
        on_decided=explanations.note,
        write_behind_seconds=limits.journal_write_behind_ms / 1000,
    )
    loras = LoraPlaces(catalog)
    dispatcher.input_for = loras.input_for
    await bootstrap.recover(store, catalog, dispatcher)
    artifacts = Artifacts(blobs)
    retention = Retention(
        store=store,
        artifacts=artifacts,
        clock=clock,
        metrics=metrics,
        keep=_keep_times(limits),
    )
    parts = Parts(
        limits=limits,
        clock=clock,
        store=store,
        metrics=metrics,
        keys=keys,
        catalog=catalog,
        dispatcher=dispatcher,
        streams=streams,
        explanations=explanations,
        artifacts=artifacts,
        loras=loras,
    )
    await add_services(server, parts)
    metrics.observe(snapshot_reader(dispatcher.machine, clock, loop))
    await server.start()
    await health.set_serving(True)
    background.start(dispatcher.run(), "the watch over leases and deadlines", needed=True)
    background.start(retention.run(), "deleting what is past its time")
    background.start(note_uses(keys, store.journal), "noting when keys were used")
    if settings.prices is not None:
        watching = watch_prices(
            settings.prices,
            dispatcher.machine.prices,
            lambda table: dispatcher.feed(PricesChanged(table)),
            metrics.price_tables_refused.inc,
            limits.prices_check_ms / 1000,
        )
        background.start(watching, "the watch over prices")
    background.start(explanations.run(), "keeping explanations")
    if decision_log is not None:
        background.start(decision_log.run(), "the decision log")
    background.start(watch_loop_lag(metrics.loop_lag_seconds), "measuring the loop's lag")
    return Scheduler(
        grpc_address,
        local_address,
        metrics_address,
        dispatcher,
        explanations,
        retention,
        background,
        settings,
        server,
        metrics_server,
        health,
        store,
        streams,
        decision_log,
    )


def _keep_times(limits: Limits) -> KeepTimes:
    return KeepTimes(
        requests_ms=limits.request_keep_days * DAY_MS,
        webhooks_ms=limits.webhook_keep_days * DAY_MS,
        ledger_ms=limits.ledger_keep_days * DAY_MS,
        idempotency_ms=limits.idempotency_retention_hours * HOUR_MS,
    )


def _events_log(limits: Limits) -> EventsLog[WatchPayload]:
    return EventsLog(
        EventLimits(
            per_request_max=limits.events_per_request_max,
            total_bytes_max=limits.events_total_bytes_max,
            finished_max=limits.finished_logs_max,
            watchers_per_request_max=limits.watchers_per_request_max,
        )
    )
