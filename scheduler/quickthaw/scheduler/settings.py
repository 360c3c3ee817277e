"""The scheduler's settings: from the command line, checked once, frozen."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from quickthaw.scheduler.core.numbers import parse_numbers
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import ServerTls, server_tls

LOG_LEVELS = ("debug", "info", "warning", "error")


def _limit(default: int, minimum: int, maximum: int, text: str) -> int:
    """A dataclass field for one limit; its name with dashes is the flag."""
    metadata = {"minimum": minimum, "maximum": maximum, "help": text}
    value: int = field(default=default, metadata=metadata)
    return value


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of the scheduler. Each is a flag: `queue_max` is `--queue-max`."""

    queue_max: int = _limit(10_000, 1, 10_000_000, "requests that may wait, of all tenants")
    tenant_queue_max: int = _limit(2_000, 1, 10_000_000, "requests of one tenant that may wait")
    tenant_concurrency_max: int = _limit(
        0, 0, 1_000_000, "attempts of one tenant at once, the others queue; 0 for no limit"
    )
    wait_limit_ms: int = _limit(
        60_000, 0, 86_400_000, "how long a request whose turn it is may be passed over"
    )
    estimates_recalled_max: int = _limit(
        5_000, 0, 1_000_000, "ended runs from which a starting scheduler learns how long runs take"
    )
    queued_input_bytes_max: int = _limit(
        512 * 1024 * 1024, 1024 * 1024, 1 << 40, "memory for the inputs of all open requests"
    )
    attempts_max: int = _limit(3, 1, 100, "workers that may be lost under one request")
    lease_ms: int = _limit(10_000, 200, 600_000, "silence after which a worker has lost its work")
    heartbeat_interval_ms: int = _limit(1_000, 20, 60_000, "how often a worker reports")
    meter_lease_ms: int = _limit(
        2_000, 100, 60_000, "run time that a limited account pays for beyond what is expected"
    )
    prices_check_ms: int = _limit(
        1_000, 20, 3_600_000, "how often the price table's file is looked at for changes"
    )
    new_tenant_credit_nanodollars: int = _limit(
        0, 0, 10**18, "what a new tenant may spend until it is granted more; 0 for no bound"
    )
    tick_ms: int = _limit(50, 5, 10_000, "how often leases and deadlines are looked at")
    events_per_request_max: int = _limit(256, 16, 100_000, "events kept for late watchers")
    events_total_bytes_max: int = _limit(
        256 * 1024 * 1024, 1024 * 1024, 1 << 40, "memory for all kept events"
    )
    finished_logs_max: int = _limit(1_000, 1, 1_000_000, "ended requests whose events are kept")
    watchers_per_request_max: int = _limit(64, 1, 10_000, "streams that watch one request")
    decisions_max: int = _limit(10_000, 1, 1_000_000, "placements kept in memory for Explain")
    decision_log_mib: int = _limit(
        0, 0, 1_000_000, "disk for a log of events and decisions that can be replayed; 0: no log"
    )
    explanations_max: int = _limit(
        20_000, 0, 10_000_000, "placements kept in the store for Explain, over restarts"
    )
    explanations_per_second_max: int = _limit(
        100, 0, 10_000, "placements a second that go to the store; the newest, if there are more"
    )
    realtime_in_flight_max: int = _limit(16, 1, 1_000, "inputs at once in one realtime session")
    realtime_hold_ms: int = _limit(
        5_000, 0, 600_000, "how long an idle realtime session keeps its turn on its worker"
    )
    run_many_in_flight_max: int = _limit(1_000, 1, 100_000, "calls at once on one RunMany stream")
    worker_outbound_max: int = _limit(
        16_384, 256, 1_000_000, "messages that may wait for one slow worker"
    )
    rpcs_max: int = _limit(20_000, 10, 1_000_000, "calls and streams open at once")
    keyless_rpcs_max: int = _limit(
        256, 4, 100_000, "the same, of each method of health and reflection, which need no key"
    )
    journal_batch_max: int = _limit(512, 1, 10_000, "writes in one transaction")
    journal_waiting_max: int = _limit(8_192, 1, 1_000_000, "writes that may wait for the store")
    journal_write_behind_ms: int = _limit(
        50, 0, 1_000, "how long an attempt's steps may wait, to be spared if it ends meanwhile"
    )
    store_readers: int = _limit(4, 1, 64, "threads that read the store")
    idempotency_retention_hours: int = _limit(24, 1, 8_760, "how long a key is remembered")
    request_keep_days: int = _limit(
        90, 0, 36_500, "how long an ended request is kept, and its files; 0 for ever"
    )
    webhook_keep_days: int = _limit(
        30, 0, 36_500, "how long a webhook that was delivered or given up is kept; 0 for ever"
    )
    ledger_keep_days: int = _limit(
        0, 0, 36_500, "how long a line of the bill is kept, and a budget's alert; 0 for ever"
    )
    key_cache_max: int = _limit(4_096, 16, 1_000_000, "keys kept in memory")
    webhook_tenant_in_flight_max: int = _limit(
        8, 1, 1_000, "webhooks of one tenant that are delivered at once"
    )
    webhook_poll_ms: int = _limit(1_000, 10, 60_000, "how often repeated webhooks are looked for")
    supply_interval_ms: int = _limit(
        5_000, 0, 600_000, "how often copies and prefetches are planned; 0 for never"
    )
    poison_kills: int = _limit(
        3, 1, 100, "worker processes that may end under one request before it is failed"
    )
    quarantine_kills: int = _limit(
        6, 1, 1_000, "worker processes that may end under one version of a model between its runs"
    )
    quarantine_load_failures: int = _limit(
        3, 1, 1_000, "loads of one version that may fail in a row, on every worker"
    )
    crash_deaths: int = _limit(
        4, 1, 1_000, "deaths of a worker in ten minutes before it gets a pause"
    )
    keep_alive_ms: int = _limit(
        600_000, 0, 86_400_000, "how long an idle copy is kept if the model's pauses say nothing"
    )
    scale_down_delay_ms: int = _limit(
        60_000, 0, 86_400_000, "how long fewer workers or copies must do before some go"
    )
    deployments_waiting_max: int = _limit(
        1_000, 1, 100_000, "deployments of all tenants that may be open"
    )
    tenant_deployments_max: int = _limit(4, 1, 10_000, "deployments of one tenant that may be open")
    deployment_attempts_max: int = _limit(
        3, 1, 100, "packers that may be lost under one deployment"
    )
    tenant_deployments_kept_max: int = _limit(
        1_000, 1, 1_000_000, "ended deployments of one tenant that can be asked about"
    )
    deployment_retention_hours: int = _limit(
        720, 1, 87_600, "how long ended deployments can be asked about"
    )
    tenant_snapshots_max: int = _limit(
        100, 0, 1_000_000, "snapshots of one tenant, all versions of its models together"
    )
    tenant_snapshot_bytes_max: int = _limit(
        500 << 30, 0, 1 << 60, "bytes of one tenant's snapshots, without what others' models have"
    )
    models_max: int = _limit(20_000, 1, 1_000_000, "models in the catalog")
    stop_grace_ms: int = _limit(5_000, 0, 600_000, "how long calls in flight may end at shutdown")
    store_lock_wait_ms: int = _limit(
        2_000, 0, 600_000, "how long to wait for another scheduler to let go of the store"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    data_dir: Path
    grpc: Address
    metrics: Address
    store_url: str
    blob_store: str
    """An absolute folder or an object-store URL that `obstore` opens; workers write, we read."""
    prices: Path | None = None
    tenant_classes: Mapping[str, str] = field(default_factory=dict)
    """Label of the money metrics by tenant; `standard` for the rest."""
    tenant_concurrency: Mapping[str, int] = field(default_factory=dict)
    """In place of `Limits.tenant_concurrency_max`, by tenant; 0 for no limit."""
    core_numbers: Mapping[str, float] = field(default_factory=dict)
    """Of the core's settings, those that have no flag of their own; see `core.numbers`."""
    log_level: str = "info"
    log_json: bool = False
    tls: ServerTls | None = None
    """What `grpc` shows; None for plain text."""
    grpc_local: Address | None = None
    """A second address, in plain text, for this machine alone; None for none."""
    limits: Limits = field(default_factory=Limits)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsInvalid(f"{message}; see --help")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> _Parser:
    parser = _Parser(
        prog="quickthaw scheduler",
        description="Accepts requests over gRPC, places them on attached workers, keeps the bill.",
        allow_abbrev=False,
    )
    parser.add_argument("--data-dir", required=True, help="the store, the keys and the artifacts")
    parser.add_argument("--grpc", default="127.0.0.1:7070", help="HOST:PORT; port 0 picks one")
    parser.add_argument(
        "--tls-cert", type=Path, metavar="PEM", help="serve gRPC by TLS: a certificate, its chain"
    )
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="PEM",
        help="let in only who shows a certificate that these authorities signed; keys count too",
    )
    parser.add_argument(
        "--grpc-local", metavar="HOST:PORT", help="listen here too, without TLS; loopback only"
    )
    parser.add_argument("--metrics", default="127.0.0.1:7071", help="HOST:PORT of /metrics")
    parser.add_argument(
        "--store",
        help="sqlite:///PATH or postgresql://...; default: DIR/quickthaw.db, or QUICKTHAW_STORE",
    )
    parser.add_argument("--blob-store", help="a folder or an object-store URL; default: DIR/blobs")
    parser.add_argument("--prices", help="a price table in TOML; default: the one packaged")
    parser.add_argument(
        "--tenant-class",
        action="append",
        default=[],
        metavar="TENANT=CLASS",
        help="label of a tenant in the money metrics; may be given several times",
    )
    parser.add_argument(
        "--tenant-concurrency",
        action="append",
        default=[],
        metavar="TENANT=N",
        help="attempts of this tenant at once, 0 for no limit; may be given several times",
    )
    parser.add_argument(
        "--core",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="a weight or bound of placement, as `quickthaw bench simulate --set` tries it; may be "
        "given several times",
    )
    parser.add_argument(
        "--log-level", default="info", choices=LOG_LEVELS, help="the least that is told"
    )
    parser.add_argument("--log-json", action="store_true", help="one JSON object per log line")
    limits = parser.add_argument_group("limits")
    for each in dataclasses.fields(Limits):
        limits.add_argument(
            _flag(each.name),
            default=str(each.default),
            metavar="N",
            help=f"{each.metadata['help']} (default {each.default})",
        )
    return parser


def _parse_limits(arguments: argparse.Namespace) -> Limits:
    values: dict[str, int] = {}
    for each in dataclasses.fields(Limits):
        text = getattr(arguments, each.name)
        low, high = each.metadata["minimum"], each.metadata["maximum"]
        if not text.isdecimal() or not low <= int(text) <= high:
            raise SettingsInvalid(
                f"{_flag(each.name)} {text!r} must be a whole number from {low} to {high} "
                f"({each.metadata['help']})"
            )
        values[each.name] = int(text)
    limits = Limits(**values)
    if limits.heartbeat_interval_ms * 2 > limits.lease_ms:
        raise SettingsInvalid(
            f"--lease-ms {limits.lease_ms} must be at least twice --heartbeat-interval-ms "
            f"{limits.heartbeat_interval_ms}, or one late heartbeat would lose work"
        )
    if limits.meter_lease_ms <= limits.heartbeat_interval_ms:
        raise SettingsInvalid(
            f"--meter-lease-ms {limits.meter_lease_ms} must be more than --heartbeat-interval-ms "
            f"{limits.heartbeat_interval_ms}, or runs would stop before they hear of the next one"
        )
    if 0 < limits.request_keep_days * 24 < limits.idempotency_retention_hours:
        raise SettingsInvalid(
            f"--request-keep-days {limits.request_keep_days} must cover "
            f"--idempotency-retention-hours {limits.idempotency_retention_hours}, or a remembered "
            "key would lead to a request that is gone"
        )
    return limits


def _parse_tenant_classes(pairs: Sequence[str]) -> dict[str, str]:
    classes: dict[str, str] = {}
    for pair in pairs:
        tenant, separator, label = pair.partition("=")
        if not (separator and tenant and label):
            raise SettingsInvalid(f"--tenant-class {pair!r} must be TENANT=CLASS")
        classes[tenant] = label
    if len(set(classes.values())) > 20:
        raise SettingsInvalid("--tenant-class: at most 20 classes, because each is a metric label")
    return classes


def _parse_tenant_concurrency(pairs: Sequence[str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for pair in pairs:
        tenant, separator, number = pair.partition("=")
        if not (separator and tenant and number.isdecimal()):
            raise SettingsInvalid(
                f"--tenant-concurrency {pair!r} must be TENANT=N, N being a whole number"
            )
        limits[tenant] = int(number)
    return limits


_OTHERWISE = {
    "max_attempts": "--attempts-max",
    "queue_max_per_tenant": "--tenant-queue-max",
    "supply.interval_ms": "--supply-interval-ms",
    "supply.keep_alive_ms": "--keep-alive-ms",
    "supply.scale_down_delay_ms": "--scale-down-delay-ms",
    "crash.deaths": "--crash-deaths",
}
"""Numbers of the core whose flags are not called like them."""


def _parse_core(pairs: Sequence[str]) -> dict[str, float]:
    numbers = parse_numbers("--core", tuple(pairs))
    limits = {each.name for each in dataclasses.fields(Limits)}
    for name in numbers:
        if name in limits or name in _OTHERWISE:
            raise SettingsInvalid(f"--core {name}: use {_OTHERWISE.get(name) or _flag(name)}")
    return numbers


def _parse_address(flag: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except SettingsInvalid as error:
        raise SettingsInvalid(f"{flag}: {error.message}") from error


def _parse_local(text: str | None) -> Address | None:
    if text is None:
        return None
    address = _parse_address("--grpc-local", text)
    if not address.is_loopback:
        raise SettingsInvalid(
            f"--grpc-local {address} is plain text, and others could listen to it: give an address "
            "of this machine alone, such as 127.0.0.1:0"
        )
    return address


def parse_settings(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises SettingsInvalid, naming the flag. Reads no file but checks that named ones exist."""
    arguments = _parser().parse_args(argv)
    data_dir = Path(arguments.data_dir).expanduser().absolute()
    if data_dir.exists() and not data_dir.is_dir():
        raise SettingsInvalid(f"--data-dir {data_dir} is not a folder")
    prices = Path(arguments.prices).expanduser() if arguments.prices else None
    if prices is not None and not prices.is_file():
        raise SettingsInvalid(f"--prices {prices}: no such file")
    # A URL may hold a password, which a command line would show to everyone on the machine.
    store_url = arguments.store or environment.get("QUICKTHAW_STORE")
    return Settings(
        data_dir=data_dir,
        grpc=_parse_address("--grpc", arguments.grpc),
        metrics=_parse_address("--metrics", arguments.metrics),
        store_url=store_url or f"sqlite:///{data_dir / 'quickthaw.db'}",
        blob_store=arguments.blob_store or str(data_dir / "blobs"),
        prices=prices,
        tenant_classes=_parse_tenant_classes(arguments.tenant_class),
        tenant_concurrency=_parse_tenant_concurrency(arguments.tenant_concurrency),
        core_numbers=_parse_core(arguments.core),
        log_level=arguments.log_level,
        log_json=arguments.log_json,
        tls=server_tls(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca),
        grpc_local=_parse_local(arguments.grpc_local),
        limits=_parse_limits(arguments),
    )
