"""What one gateway process was told at its start."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address

WEBHOOK_SECONDS_MAX = 240.0
"""With what a lease has beside, as long as a scheduler lends a webhook."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what callers can make the gateway hold, wait for or send."""

    connections_max: int = 4096
    """Open HTTP connections; one more is answered 503 and closed."""
    header_bytes_max: int = 32 * 1024
    """Request line and headers together."""
    header_seconds: float = 10.0
    """From a connection's (or a request's) first byte to the end of its headers; and for the rest
    of a body that was answered before it was read."""
    body_bytes_max: int = 16 * 1024 * 1024
    """Of a call, with files as data: URIs in it; uploads have their own limits."""
    bodies_bytes_max: int = 512 * 1024 * 1024
    """Of all bodies and WebSockets' messages that are arriving, and of such messages that wait for
    their turn; what is more is answered 503, or its WebSocket closed with 1013."""
    body_seconds: float = 60.0
    """For a body, or a WebSocket's message, to arrive in whole."""
    keep_alive_seconds: int = 75
    """How long an idle connection stays open between requests."""
    call_seconds: float = 30.0
    """One short call to the scheduler."""
    reconnect_seconds: float = 5.0
    """How long calls wait for a scheduler that is not there, such as one that restarts."""
    run_seconds_max: float = 3600.0
    """One synchronous run or stream, queueing included; then it is cancelled."""
    stall_seconds: float = 30.0
    """How long a reader may take nothing of an answer before it is cut off; one that has vanished
    while there is nothing to tell it is noticed after three times as long."""
    ping_seconds: float = 10.0
    """Silence on an event stream after which a comment keeps it alive."""
    websockets_max: int = 4096
    """Open WebSockets; one more is answered 503. They count as connections as well."""
    websocket_ping_seconds: float = 20.0
    """Between the pings of an open WebSocket, and how long an answer may take."""
    realtime_idle_seconds: float = 60.0
    """Without an input, after which a realtime session ends."""
    followed_events_max: int = 512
    """Of one request, kept for its listeners; one that is further behind is cut off."""
    followed_bytes_max: int = 4 * 1024 * 1024
    """The same in bytes."""
    uploads_max: int = 64
    """Files and parts that are written at once, some megabytes of memory each; others wait."""
    upload_file_bytes_max: int = 16 * 1024 * 1024 * 1024
    upload_part_bytes_max: int = 128 * 1024 * 1024
    upload_tenant_bytes_max: int = 256 * 1024 * 1024 * 1024
    """All files of one tenant."""
    upload_seconds: float = 30 * 24 * 3600.0
    """How long an uploaded file is kept whose owner did not say."""
    upload_partial_seconds: float = 24 * 3600.0
    """After which an upload in parts that was not completed is given up and deleted."""
    upload_token_seconds: float = 3600.0
    """How long a token for uploads, and a URL to upload to, are good."""
    input_file_bytes_max: int = 32 * 1024 * 1024
    """Of a file that an argument names."""
    input_seconds: float = 30.0
    """For fetching one, redirects included."""
    input_pixels_max: int = 40 * 1024 * 1024
    input_side_max: int = 14_142
    input_side_min: int = 8
    input_pictures_max: int = 8
    """In one list of them."""
    inputs_decoded_max: int = 2
    """Pictures that are decoded at once, some bytes of memory a pixel each; others wait."""
    input_kept_seconds: float = 7 * 24 * 3600.0
    """How long a worker can still find one, if its request waits."""
    loras_max: int = 4
    """That one request may name."""
    lora_file_bytes_max: int = 2 * 1024 * 1024 * 1024
    """Of one that an argument names."""
    lora_seconds: float = 600.0
    """For fetching one, redirects included."""
    lora_fresh_seconds: float = 3600.0
    """After which a URL's server is asked whether its file is still the same."""
    loras_fetched_max: int = 4
    """At once; others wait."""
    loras_stored_bytes_max: int = 64 * 1024 * 1024 * 1024
    """Of all that are kept in the blob store; the least recently used goes first."""
    loras_stored_max: int = 10_000
    lora_kept_seconds: float = 3600.0
    """After a request named it, in which a worker still finds one if the request waits."""
    sweep_seconds: float = 60.0
    """Between two looks for files that have expired."""
    tls_check_seconds: float = 60.0
    """Between two looks whether the operator's certificate was renewed."""
    drain_seconds: int = 30
    """From SIGTERM until requests that are still open are cut off."""
    inline_bytes_max: int = 32 * 1024 * 1024
    """All files of one answer as data: URIs; beyond it they are links."""
    log_lines_max: int = 1000
    """Lines of one request's log in an answer; the newest are kept."""
    models_cached_max: int = 1024
    models_listed_max: int = 10_000
    model_cache_seconds: float = 5.0
    webhook_deliveries_max: int = 32
    """Webhooks that are delivered at once."""
    webhook_seconds: float = 15.0
    """One attempt to deliver, from resolving the name to the answer."""
    webhook_progress_tries: int = 3
    """Of what Replicate's callers are told before the end; the end has tries of its own."""
    previews_per_stream: int = 8
    """How many previews a stream asks the model for, spread over its steps."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    scheduler: Address
    http: Address
    public_url: str | None = None
    """Without a trailing slash; None: `http://` and the address listened on."""
    metrics: Address | None = None
    key_file: Path | None = None
    """The gateway's own key (scope admin), with which it reads files for the holders of a link.
    None: files travel inside the answers as data: URIs."""
    link_secret_file: Path | None = None
    """What links are signed with; made if it does not exist. Replicas share one. None: a secret
    that lives as long as the process."""
    blob_store: str | None = None
    """A folder or an object-store URL, the one that workers write to; None: nobody can upload."""
    tls_dir: Path | None = None
    """Where the local certificate authority lives; made at first start. None: there is none."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    """The operator's own certificate with its chain, and its key; both or neither."""
    default_model: str = ""
    """For OpenAI calls that name none; empty: there is none."""
    input_allow_private: bool = False
    """Whether URLs in arguments may lead to private and local addresses."""
    webhook_allow_private: bool = False
    """Deliver webhooks to private and local addresses too."""
    cors_origins: frozenset[str] = frozenset()
    """Whose pages may call from a browser, `https://app.example.com`; empty: everybody's."""
    log_level: str = "info"
    log_json: bool = False
    limits: Limits = field(default_factory=Limits)


NO_ENVIRONMENT: Mapping[str, str] = {}


def parse_settings(
    arguments: Sequence[str], environment: Mapping[str, str] = NO_ENVIRONMENT
) -> GatewaySettings:
    """From a command line. Raises SettingsInvalid; argparse itself exits on unknown flags."""
    parsed = _parser().parse_args(arguments)
    limits = {entry.name: getattr(parsed, entry.name) for entry in fields(Limits)}
    for name, value in limits.items():
        if value <= 0:
            flag = "--" + name.replace("_", "-")
            raise SettingsInvalid(f"{flag} is {value}: give a number above zero")
    if limits["webhook_seconds"] > WEBHOOK_SECONDS_MAX:
        raise SettingsInvalid(
            f"--webhook-seconds is {limits['webhook_seconds']}: give at most "
            f"{WEBHOOK_SECONDS_MAX:g}, for a webhook is leased for five minutes at most"
        )
    if (parsed.tls_certificate is None) != (parsed.tls_key is None):
        raise SettingsInvalid("--tls-certificate and --tls-key belong together: give both")
    return GatewaySettings(
        scheduler=Address.parse(parsed.scheduler),
        http=Address.parse(parsed.http),
        public_url=None if parsed.public_url is None else _public_url(parsed.public_url),
        metrics=None if parsed.metrics is None else Address.parse(parsed.metrics),
        key_file=parsed.key_file,
        link_secret_file=parsed.link_secret_file,
        blob_store=parsed.blob_store,
        tls_dir=parsed.tls_dir,
        tls_certificate=parsed.tls_certificate,
        tls_key=parsed.tls_key,
        default_model=parsed.default_model,
        input_allow_private=parsed.input_allow_private
        or environment.get("QUICKTHAW_INPUT_ALLOW_PRIVATE") == "1",
        webhook_allow_private=parsed.webhook_allow_private
        or environment.get("QUICKTHAW_WEBHOOK_ALLOW_PRIVATE") == "1",
        cors_origins=frozenset(map(_origin, parsed.cors_origin)),
        log_level=parsed.log_level,
        log_json=parsed.log_json,
        limits=Limits(**limits),
    )


def _public_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise SettingsInvalid(
            f"--public-url {text!r} is no base URL: write http(s)://HOST[:PORT][/PATH]"
        )
    return text.rstrip("/")


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or text != f"{parts.scheme}://{parts.netloc}".lower():
        raise SettingsInvalid(
            f"--cors-origin {text!r} is no origin: write https://HOST[:PORT] in lower case, "
            "without a path"
        )
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quickthaw.gateway",
        description="Serves the HTTP APIs of a Quickthaw platform.",
    )
    parser.add_argument("--scheduler", required=True, metavar="HOST:PORT", help="its gRPC address")
    parser.add_argument("--http", default="127.0.0.1:7080", metavar="HOST:PORT")
    parser.add_argument(
        "--public-url", metavar="URL", help="the base of every URL in an answer, as callers see it"
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help="Prometheus; not served if absent")
    parser.add_argument(
        "--key-file", type=Path, metavar="PATH", help="the gateway's own key, of scope admin"
    )
    parser.add_argument(
        "--link-secret-file", type=Path, metavar="PATH", help="signs file links; made if missing"
    )
    parser.add_argument(
        "--blob-store",
        metavar="URL",
        help="a folder or an object-store URL for uploaded files, the one that workers write to",
    )
    parser.add_argument(
        "--input-allow-private",
        action="store_true",
        help="fetch input files from private and local addresses too",
    )
    parser.add_argument(
        "--tls-dir",
        type=Path,
        metavar="PATH",
        help="a local certificate authority, made there if missing: lets clients with fixed https "
        "hosts in through CONNECT or by name",
    )
    parser.add_argument(
        "--tls-certificate", type=Path, metavar="PEM", help="your own, with its chain, for TLS"
    )
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument(
        "--default-model",
        default="",
        metavar="MODEL",
        help="for calls of the OpenAI API that name none",
    )
    parser.add_argument(
        "--webhook-allow-private",
        action="store_true",
        help="deliver webhooks to private and local addresses too; also "
        "QUICKTHAW_WEBHOOK_ALLOW_PRIVATE=1",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let only pages of this origin call from a browser; may be repeated; any if absent",
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )
    parser.add_argument("--log-json", action="store_true")
    for entry in fields(Limits):
        parser.add_argument(
            "--" + entry.name.replace("_", "-"),
            type=type(entry.default),
            default=entry.default,
            metavar="N",
            help=f"limit; {entry.default} if not given",
        )
    return parser
