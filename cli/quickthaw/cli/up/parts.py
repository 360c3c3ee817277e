"""The command lines of the parts; the names of their files."""

from __future__ import annotations

from quickthaw.cli.up.process import Command
from quickthaw.cli.up.settings import UpSettings
from quickthaw.wire.tls_settings import ServerTls

ADMIN_KEY_FILE = "admin.key"
WORKER_KEY_FILE = "worker.key"
LINK_SECRET_FILE = "links.secret"
TLS_DIR = "tls"


def scheduler(settings: UpSettings, grpc: str, metrics: str, local: str = "127.0.0.1:0") -> Command:
    """`grpc`, `metrics` and `local` are what the settings say at first, then what the first start
    got; `local` counts with TLS."""
    arguments = ["quickthaw.scheduler", "--data-dir", str(settings.data_dir), "--grpc", grpc]
    arguments += ["--metrics", metrics, "--blob-store", settings.blobs]
    arguments += ["--log-level", settings.log_level]
    if settings.tls is not None:
        arguments += [*_shown(settings.tls), "--grpc-local", local]
        if settings.tls.client_ca is not None:
            arguments += ["--tls-client-ca", str(settings.tls.client_ca)]
    if settings.elastic:
        delay_ms = round(settings.scale_down_delay_seconds * 1000)
        arguments += ["--scale-down-delay-ms", str(delay_ms)]
    if settings.prices is not None:
        arguments += ["--prices", str(settings.prices)]
    if credit := settings.new_tenant_credit_nanodollars:
        arguments += ["--new-tenant-credit-nanodollars", str(credit)]
    arguments += settings.options.get("scheduler", ())
    return Command(
        name="scheduler",
        arguments=tuple(arguments),
        ready_word="quickthaw-scheduler",
        log=settings.logs / "scheduler.log",
        # Not an argument: the URL may hold a password, and every user can read a command line.
        environment={"QUICKTHAW_STORE": settings.store} if settings.store else {},
    )


def gateway(settings: UpSettings, scheduler: str, http: str) -> Command:
    arguments = ["quickthaw.gateway", "--scheduler", scheduler, "--http", http]
    arguments += ["--metrics", f"{settings.metrics.host}:0", "--log-level", settings.log_level]
    arguments += ["--key-file", str(settings.data_dir / ADMIN_KEY_FILE)]
    arguments += ["--link-secret-file", str(settings.data_dir / LINK_SECRET_FILE)]
    arguments += ["--blob-store", settings.blobs]
    arguments += ["--tls-dir", str(settings.data_dir / TLS_DIR)]
    arguments += ["--drain-seconds", str(settings.drain_seconds)]
    if settings.tls is not None:
        arguments += _shown(settings.tls)
    arguments += settings.options.get("gateway", ())
    return Command(
        name="gateway",
        arguments=tuple(arguments),
        ready_word="quickthaw-gateway",
        log=settings.logs / "gateway.log",
        environment={},
    )


def _shown(tls: ServerTls) -> list[str]:
    return ["--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)]


def packer(settings: UpSettings, scheduler: str) -> Command:
    arguments = ["quickthaw.cli.packer", "--scheduler", scheduler]
    arguments += ["--key-file", str(settings.data_dir / ADMIN_KEY_FILE)]
    arguments += ["--blob-store", settings.blobs, "--snapshots", str(settings.snapshots)]
    arguments += ["--work-dir", str(settings.packing)]
    arguments += ["--log-level", settings.log_level]
    if settings.push is not None:
        arguments += ["--push", settings.push]
    arguments += settings.options.get("packer", ())
    return Command(
        name="packer",
        arguments=tuple(arguments),
        ready_word="quickthaw-packer",
        log=settings.logs / "packer.log",
        environment={},
    )
