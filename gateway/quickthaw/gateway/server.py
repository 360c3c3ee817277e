"""One gateway process: it listens, says so, serves until told to stop, and drains."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import cast

import uvicorn
from prometheus_client import CollectorRegistry
from uvicorn.protocols.http.h11_impl import H11Protocol

from quickthaw.gateway.app import WEBHOOK_BODIES, build_app
from quickthaw.gateway.context import FAREWELL_SECONDS, Gateway
from quickthaw.gateway.cors import Cors
from quickthaw.gateway.door import Authority, Port
from quickthaw.gateway.http11 import protocol_with
from quickthaw.gateway.inputs import Inputs
from quickthaw.gateway.links import Links, load_key, load_secret
from quickthaw.gateway.loras import Loras
from quickthaw.gateway.metrics import GatewayMetrics
from quickthaw.gateway.outbound import Outbound
from quickthaw.gateway.platform import Credential, Platform
from quickthaw.gateway.sealed import Sealer
from quickthaw.gateway.settings import GatewaySettings, Limits
from quickthaw.gateway.storage import (
    Expiry,
    Uploads,
    WeightsStore,
    open_blobs,
    sweeping,
)
from quickthaw.gateway.webhooks import Deliverer, delivering
from quickthaw.gateway.websocket import MESSAGE_BYTES_MAX, websocket_protocol_with
from quickthaw.wire.blob_store import check_blob_store
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.own_certificate import OwnCertificate, renewing
from quickthaw.wire.process import Address, address_in_use, serve_metrics, watch_loop_lag

logger = logging.getLogger(__name__)

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a gateway is to be found, port 0 replaced by what it got."""

    http: Address
    public_url: str
    metrics_url: str | None


class _Server(uvicorn.Server):
    """Leaves signals to us (uvicorn raises them again after its shutdown, and we exit with 0), and
    accepting connections to a `Port`."""

    def make_protocol(self) -> asyncio.Protocol:
        """For one connection, as uvicorn itself makes them for its own sockets."""
        kind = cast("type[H11Protocol]", self.config.http_protocol_class)
        return kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: GatewaySettings, on_ready: Callable[[Listening], None]) -> None:
    """Until SIGTERM or SIGINT, then drained. Raises AddressInUse or SettingsInvalid at first."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as listening:
        on_ready(listening)
        await stop.wait()
        logger.info("draining for at most %d s", settings.limits.drain_seconds)


@contextlib.asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[Listening]:
    """A gateway that serves for as long as the context is open; leaving it drains."""
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    _say_what_is_missing(settings)
    if settings.blob_store is not None:
        await check_blob_store(settings.blob_store)
    with contextlib.closing(_listen(settings.http)) as listener:
        address = Address(settings.http.host, listener.getsockname()[1])
        public_url = settings.public_url or f"http://{address}"
        authority = Authority(settings.tls_dir) if settings.tls_dir is not None else None
        gateway = _gateway(settings, metrics, public_url)
        gateway.ca_pem = authority.ca_pem if authority is not None else b""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(gateway.close)
            metrics_url = _serve_metrics(settings, registry, stack)
            lag = asyncio.create_task(watch_loop_lag(metrics.loop_lag_seconds))
            stack.callback(lag.cancel)
            if gateway.uploads is not None:
                every_seconds = settings.limits.sweep_seconds
                await stack.enter_async_context(sweeping(gateway.uploads.expiry, every_seconds))
            tls = await _tls(settings, authority, stack)
            if gateway.platform.renewable:
                every_seconds = settings.limits.tls_check_seconds
                await stack.enter_async_context(renewing(gateway.platform.renew, every_seconds))
            await _deliver_webhooks(settings, gateway, stack)
            await stack.enter_async_context(_served(gateway, listener, settings.limits, tls))
            yield Listening(address, public_url, metrics_url)


def _gateway(settings: GatewaySettings, metrics: GatewayMetrics, public_url: str) -> Gateway:
    """What the handlers share. Raises SettingsInvalid."""
    secret = load_secret(settings.link_secret_file)
    own_credential = Credential(load_key(settings.key_file))
    uploads = _uploads(settings, secret)
    platform = Platform(settings.scheduler, settings.limits, settings.scheduler_tls)
    links = Links(secret, public_url)
    outbound = Outbound(allow_private=settings.input_allow_private)
    inputs = Inputs(
        limits=settings.limits,
        platform=platform,
        links=links,
        own_credential=own_credential,
        uploads=uploads,
        outbound=outbound,
        public_url=public_url,
        secret=secret,
        loras=_loras(settings.limits, outbound, uploads, secret),
    )
    return Gateway(
        limits=settings.limits,
        platform=platform,
        links=links,
        sealer=Sealer(secret),
        inputs=inputs,
        metrics=metrics,
        public_url=public_url,
        own_credential=own_credential,
        default_model=settings.default_model,
        cors=Cors(settings.cors_origins),
        uploads=uploads,
    )


def _loras(limits: Limits, outbound: Outbound, uploads: Uploads | None, secret: bytes) -> Loras:
    store = None
    if uploads is not None:
        store = WeightsStore(
            uploads.blobs,
            uploads.expiry,
            secret,
            file_bytes_max=limits.lora_file_bytes_max,
            bytes_max=limits.loras_stored_bytes_max,
            files_max=limits.loras_stored_max,
            kept_seconds=limits.lora_kept_seconds,
            idle_seconds=limits.input_kept_seconds,
            now=uploads.now,
        )
    return Loras(limits, outbound, store, time.time if uploads is None else uploads.now)


def _uploads(settings: GatewaySettings, secret: bytes) -> Uploads | None:
    """Raises SettingsInvalid."""
    if settings.blob_store is None:
        return None
    blobs = open_blobs(settings.blob_store)
    return Uploads(
        blobs,
        Expiry(blobs),
        secret,
        file_bytes_max=settings.limits.upload_file_bytes_max,
        tenant_bytes_max=settings.limits.upload_tenant_bytes_max,
        partial_seconds=settings.limits.upload_partial_seconds,
    )


async def _tls(
    settings: GatewaySettings, authority: Authority | None, stack: contextlib.AsyncExitStack
) -> ssl.SSLContext | None:
    """What TLS connections get; None where TLS is not offered. Raises SettingsInvalid."""
    own = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        certificate = OwnCertificate(settings.tls_certificate, settings.tls_key)
        await stack.enter_async_context(
            renewing(certificate.refresh, settings.limits.tls_check_seconds)
        )
        own = certificate.context
    return own if authority is None else authority.server_context(own)


@contextlib.asynccontextmanager
async def _served(
    gateway: Gateway, listener: socket.socket, limits: Limits, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    server = _Server(_uvicorn_config(gateway, limits))
    # uvicorn gets no socket: connections come through the port, which looks at them first.
    serving = asyncio.create_task(server.serve(sockets=[]))
    try:
        while not server.started:
            if serving.done():
                serving.result()
            await asyncio.sleep(0)
        port = Port(
            listener,
            server.make_protocol,
            tls,
            head_seconds=limits.header_seconds,
            stall_seconds=limits.stall_seconds,
            undecided_max=limits.connections_max,
        )
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(port.serve())
            try:
                yield
            finally:
                accepting.cancel()
                listener.close()  # who comes now is refused instead of left waiting
    finally:
        gateway.draining = True
        server.should_exit = True
        await serving
        # Those that were cut off still say goodbye, to their callers and to the scheduler.
        if server.server_state.tasks:
            await asyncio.wait(set(server.server_state.tasks), timeout=FAREWELL_SECONDS)


def _uvicorn_config(gateway: Gateway, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(gateway),
        http=protocol_with(
            header_seconds=limits.header_seconds,
            stall_seconds=limits.stall_seconds,
            on_stall=gateway.metrics.stalled_readers.inc,
        ),
        ws=websocket_protocol_with(
            stall_seconds=limits.stall_seconds,
            message_seconds=limits.body_seconds,
            on_stall=gateway.metrics.stalled_readers.inc,
            room=gateway.body_room,
        ),
        ws_max_size=MESSAGE_BYTES_MAX,
        ws_ping_interval=limits.websocket_ping_seconds,
        ws_ping_timeout=limits.websocket_ping_seconds,
        # What goes out is compressed pictures; a window for each connection would buy nothing.
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Who the caller is behind a proxy is the operator's proxy's log to keep.
        proxy_headers=False,
        # uvicorn counts the connection that it decides about.
        limit_concurrency=limits.connections_max + 1,
        h11_max_incomplete_event_size=limits.header_bytes_max,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=limits.drain_seconds,
        backlog=BACKLOG,
    )


def _listen(address: Address) -> socket.socket:
    """Raises AddressInUse, and SettingsInvalid for an address that this machine has not got."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsInvalid(f"--http {address}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise address_in_use("the gateway", address) from error
        raise SettingsInvalid(f"--http {address}: {error}") from error
    return listener


def _serve_metrics(
    settings: GatewaySettings, registry: CollectorRegistry, stack: contextlib.AsyncExitStack
) -> str | None:
    if settings.metrics is None:
        return None
    server, address = serve_metrics(registry, settings.metrics)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"http://{address}/metrics"


async def _deliver_webhooks(
    settings: GatewaySettings, gateway: Gateway, stack: contextlib.AsyncExitStack
) -> None:
    """Only a gateway with a key of its own may claim what is due."""
    if not gateway.own_credential:
        return
    # Two of them: slow receivers of what is told on the way must not delay what is promised.
    promised, on_the_way = (
        Outbound(
            allow_private=settings.webhook_allow_private,
            open_max=settings.limits.webhook_deliveries_max,
        )
        for _ in range(2)
    )
    stack.push_async_callback(promised.close)
    stack.push_async_callback(on_the_way.close)
    gateway.webhook_outbound = on_the_way
    deliverer = Deliverer(gateway, promised, WEBHOOK_BODIES)
    await stack.enter_async_context(delivering(deliverer))


def _say_what_is_missing(settings: GatewaySettings) -> None:
    if settings.key_file is None:
        logger.warning("no --key-file: files travel inside the answers as data: URIs")
    elif settings.link_secret_file is None:
        logger.warning("no --link-secret-file: links to files die with this process")
    if settings.blob_store is None:
        logger.warning("no --blob-store: uploads are refused")
