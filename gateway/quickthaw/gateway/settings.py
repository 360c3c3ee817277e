"""What one gateway process was told at its start."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import TlsFiles, add_tls_flags, dialled

WEBHOOK_SECONDS_MAX = 240.0
"""With what a lease has beside, as long as a scheduler lends a webhook."""

Number = TypeVar("Number", int, float)


def _limit(default: Number, text: str) -> Number:
    """A dataclass field for one limit; its name with dashes is the flag."""
    value: Number = field(default=default, metadata={"help": text})
    return value


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what callers can make the gateway hold, wait for or send."""

    connections_max: int = _limit(
        4096, "open HTTP connections; one more is answered 503 and closed"
    )
    header_bytes_max: int = _limit(32 * 1024, "request line and headers together")
    header_seconds: float = _limit(
        10.0,
        "from a connection's (or a request's) first byte to the end of its headers; also for the "
        "rest of a body that was answered before it was read",
    )
    body_bytes_max: int = _limit(
        16 * 1024 * 1024, "of a call, with files as data: URIs in it; uploads have their own limits"
    )
    bodies_bytes_max: int = _limit(
        512 * 1024 * 1024,
        "of all bodies and WebSockets' messages that are arriving, and of such messages that wait "
        "for their turn; what is more is answered 503, or its WebSocket closed with 1013",
    )
    share_of_free: float = _limit(
        1.0,
        "what one tenant, or one address without a key, may have of --bodies-bytes-max and of "
        "--uploads-max: so many times what nobody has. With 1 that is half of all for who is alone",
    )
    body_seconds: float = _limit(60.0, "for a body, or a WebSocket's message, to arrive in whole")
    keep_alive_seconds: int = _limit(75, "how long an idle connection stays open between requests")
    call_seconds: float = _limit(30.0, "one short call to the scheduler")
    reconnect_seconds: float = _limit(
        5.0, "how long calls wait for a scheduler that is not there, such as one that restarts"
    )
    run_seconds_max: float = _limit(
        3600.0, "one synchronous run or stream, queueing included; then it is cancelled"
    )
    stall_seconds: float = _limit(
        30.0,
        "how long a reader may take nothing of an answer before it is cut off; one that has "
        "vanished while there is nothing to tell it is noticed after three times as long",
    )
    ping_seconds: float = _limit(
        10.0, "silence on an event stream after which a comment keeps it alive"
    )
    websockets_max: int = _limit(
        4096, "open WebSockets; one more is answered 503. They count as connections as well"
    )
    websocket_ping_seconds: float = _limit(
        20.0, "between the pings of an open WebSocket, and how long an answer may take"
    )
    realtime_idle_seconds: float = _limit(
        60.0, "without an input, after which a realtime session ends"
    )
    followed_events_max: int = _limit(
        512, "events of one request, kept for its listeners; one that is further behind is cut off"
    )
    followed_bytes_max: int = _limit(4 * 1024 * 1024, "the same, in bytes")
    uploads_max: int = _limit(
        64, "files and parts that are written at once, some megabytes of memory each; others wait"
    )
    upload_bytes_per_second_min: int = _limit(
        4096, "how fast a file has to come, after the first --body-seconds of patience"
    )
    upload_file_bytes_max: int = _limit(16 * 1024 * 1024 * 1024, "of one uploaded file")
    upload_part_bytes_max: int = _limit(128 * 1024 * 1024, "of one part of an upload")
    upload_tenant_bytes_max: int = _limit(
        256 * 1024 * 1024 * 1024, "all uploaded files of one tenant"
    )
    upload_seconds: float = _limit(
        30 * 24 * 3600.0, "how long an uploaded file is kept whose owner did not say"
    )
    upload_partial_seconds: float = _limit(
        24 * 3600.0, "after which an upload in parts that was not completed is deleted"
    )
    upload_token_seconds: float = _limit(
        3600.0, "how long a token for uploads, and a URL to upload to, are good"
    )
    input_file_bytes_max: int = _limit(32 * 1024 * 1024, "of a file that an argument names")
    input_seconds: float = _limit(
        30.0, "for fetching a file that an argument names, redirects included"
    )
    input_pixels_max: int = _limit(40 * 1024 * 1024, "of a picture that an argument names")
    input_side_max: int = _limit(14_142, "its longer side, in pixels")
    input_side_min: int = _limit(8, "its shorter side, in pixels")
    input_pictures_max: int = _limit(8, "pictures in one list of an argument")
    inputs_decoded_max: int = _limit(
        2, "pictures that are decoded at once, some bytes of memory a pixel each; others wait"
    )
    input_kept_seconds: float = _limit(
        7 * 24 * 3600.0, "how long a worker can still find such a file, if its request waits"
    )
    loras_max: int = _limit(4, "LoRAs that one request may name")
    lora_file_bytes_max: int = _limit(2 * 1024 * 1024 * 1024, "of a LoRA that an argument names")
    lora_seconds: float = _limit(600.0, "for fetching a LoRA, redirects included")
    lora_fresh_seconds: float = _limit(
        3600.0, "after which the server of a LoRA's URL is asked whether its file is still the same"
    )
    loras_fetched_max: int = _limit(4, "LoRAs fetched at once; others wait")
    loras_stored_bytes_max: int = _limit(
        64 * 1024 * 1024 * 1024,
        "all LoRAs kept in the blob store; the least recently used goes first",
    )
    loras_stored_max: int = _limit(10_000, "the same, in files")
    lora_kept_seconds: float = _limit(
        3600.0,
        "after a request named a LoRA, in which a worker still finds it if the request waits",
    )
    sweep_seconds: float = _limit(60.0, "between two looks for files that have expired")
    tls_check_seconds: float = _limit(
        60.0, "between two looks whether the operator's certificate was renewed"
    )
    drain_seconds: int = _limit(30, "from SIGTERM until requests that are still open are cut off")
    inline_bytes_max: int = _limit(
        32 * 1024 * 1024, "all files of one answer as data: URIs; beyond it they are links"
    )
    log_lines_max: int = _limit(
        1000, "lines of one request's log in an answer; the newest are kept"
    )
    models_cached_max: int = _limit(1024, "models whose schemas are kept in memory")
    models_listed_max: int = _limit(10_000, "models in one list")
    model_cache_seconds: float = _limit(
        5.0, "how long a model's schema is believed without asking again"
    )
    webhook_deliveries_max: int = _limit(32, "webhooks that are delivered at once")
    webhook_seconds: float = _limit(
        15.0, "one attempt to deliver, from resolving the name to the answer"
    )
    webhook_progress_tries: int = _limit(
        3, "tries to tell Replicate's callers of a step before the end, which has tries of its own"
    )
    previews_per_stream: int = _limit(
        8, "how many previews a stream asks the model for, spread over its steps"
    )


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    scheduler: Address
    http: Address
    scheduler_tls: TlsFiles | None = None
    """What goes with dialling it; None for plain text."""
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
    if (parsed.tls_cert is None) != (parsed.tls_key is None):
        raise SettingsInvalid("--tls-cert and --tls-key belong together: give both")
    scheduler, scheduler_tls = dialled(parsed, parsed.scheduler, environment)
    return GatewaySettings(
        scheduler=scheduler,
        scheduler_tls=scheduler_tls,
        http=Address.parse(parsed.http),
        public_url=None if parsed.public_url is None else _public_url(parsed.public_url),
        metrics=None if parsed.metrics is None else Address.parse(parsed.metrics),
        key_file=parsed.key_file,
        link_secret_file=parsed.link_secret_file,
        blob_store=parsed.blob_store,
        tls_dir=parsed.tls_dir,
        tls_certificate=parsed.tls_cert,
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
        prog="quickthaw gateway",
        description="Serves the HTTP APIs of a Quickthaw platform.",
    )
    parser.add_argument(
        "--scheduler",
        required=True,
        metavar="HOST:PORT",
        help="its gRPC address; grpcs://HOST:PORT for TLS",
    )
    add_tls_flags(parser, "scheduler-", also=["--tls-ca"])
    parser.add_argument(
        "--http", default="127.0.0.1:7080", metavar="HOST:PORT", help="where to serve (%(default)s)"
    )
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
        "--tls-cert",
        "--tls-certificate",
        type=Path,
        metavar="PEM",
        help="your own, with its chain, for TLS on the HTTP port",
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
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="the least that is told (%(default)s)",
    )
    parser.add_argument("--log-json", action="store_true", help="one JSON object a line")
    for entry in fields(Limits):
        parser.add_argument(
            "--" + entry.name.replace("_", "-"),
            type=type(entry.default),
            default=entry.default,
            metavar="N",
            help=f"{entry.metadata['help']} (default {entry.default})",
        )
    return parser
