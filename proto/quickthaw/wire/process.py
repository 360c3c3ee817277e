"""What every process of the platform does the same way: addresses, logs, metrics, loop lag."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Histogram, start_http_server

from quickthaw.wire.errors import AddressInUse, SettingsInvalid

LOOP_LAG_INTERVAL_SECONDS = 0.25

_GRPC_EXPERIMENTS = "GRPC_EXPERIMENTS"
_SOCKETS_READ_BY_POLLER = "-event_engine_client,-event_engine_listener"


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen; port 0 asks for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `HOST:PORT`, `:PORT` or `[IPV6]:PORT`. Raises SettingsInvalid."""
        host, separator, port = text.rpartition(":")
        if not separator or not port.isdecimal() or int(port) > 65535 or "/" in host:
            raise SettingsInvalid(
                f"{text!r} is no address: write HOST:PORT, for example [::1]:7070"
            )
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it, as far as its spelling tells."""
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_in_use(what: str, address: Address) -> AddressInUse:
    return AddressInUse(
        f"{what} cannot listen on {address}: the address is in use; stop what holds it, or choose "
        "another port (0 picks a free one)"
    )


def describe_status(status: int) -> str:
    """In words, after the name of a process; -N is the end by signal N."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def read_sockets_directly() -> None:
    """Call it before the process's first channel or server.

    By itself gRPC reads sockets in a pool of threads, which wake the thread that looks for what is
    complete, which wakes the event loop. Without the pool the second of these reads them: a message
    takes half as many wake-ups, each of which costs a sleeping processor 50 microseconds and more.
    What the environment says of gRPC's experiments already goes before.
    """
    os.environ.setdefault(_GRPC_EXPERIMENTS, _SOCKETS_READ_BY_POLLER)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # `logger.info(..., extra={"fields": {...}})` keeps names and numbers apart from the text.
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logs(level: str = "info", *, as_json: bool = False) -> None:
    """Logs go to stderr: stdout belongs to a process's ready line and a command's output."""
    handler = logging.StreamHandler(sys.stderr)
    if as_json:
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(handlers=[handler], force=True)
    root, wanted = logging.getLogger(), logging.getLevelNamesMapping()[level.upper()]
    if root.level != wanted:  # setting it goes over every logger that there is
        root.setLevel(wanted)


def serve_metrics(registry: CollectorRegistry, address: Address) -> tuple[WSGIServer, Address]:
    """Serves `/metrics` from a thread; the address that it got. Raises AddressInUse."""
    try:
        server, _thread = start_http_server(address.port, address.host, registry)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise address_in_use("the metrics endpoint", address) from error
        raise
    return server, Address(address.host, server.server_port)


async def watch_loop_lag(lag_seconds: Histogram) -> None:
    """Observes how late the event loop runs a timer; never returns."""
    while True:
        due = time.monotonic() + LOOP_LAG_INTERVAL_SECONDS
        await asyncio.sleep(LOOP_LAG_INTERVAL_SECONDS)
        lag_seconds.observe(max(0.0, time.monotonic() - due))
