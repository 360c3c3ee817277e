"""What one packer process was told at its start."""

from __future__ import annotations

import argparse
import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import TlsFiles, add_tls_flags, tls_of

LOG_LEVELS = ("debug", "info", "warning", "error")

Number = TypeVar("Number", int, float)


def _limit(default: Number, text: str) -> Number:
    """A dataclass field for one limit; its name with dashes is the flag."""
    value: Number = field(default=default, metadata={"help": text})
    return value


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one deployment can take. Each is a flag."""

    pack_bytes_max: int = _limit(
        32 << 30, "memory of the process that reads a tenant's files; mapped files are not counted"
    )
    pack_disk_bytes_max: int = _limit(
        256 << 30, "disk for the files that it writes; looked at with each report"
    )
    pack_seconds_max: float = _limit(3600.0, "for that process, from its start to its end")
    fetch_seconds_max: float = _limit(3600.0, "for all files of a deployment")
    test_seconds_max: float = _limit(
        900.0, "for the self-test, queueing and starting a worker included"
    )
    lease_seconds: float = _limit(15.0, "silence after which another packer begins anew")
    report_seconds: float = _limit(2.0, "between two reports of how far it is")
    keep_seconds: float = _limit(
        3600.0, "how long what a try has fetched and packed is kept for the next one"
    )
    wait_seconds: float = _limit(10.0, "how long one question for work may stay open")


@dataclass(frozen=True, slots=True)
class PackerSettings:
    scheduler: str
    """HOST:PORT, or grpcs://HOST:PORT for TLS."""
    key_file: Path
    """A key of scope `admin`."""
    blob_store: str
    """A folder or an object-store URL, the one that gateways keep uploads in."""
    snapshots: Path
    """The store to pack into; workers read it, unless `push` says otherwise."""
    work_dir: Path
    """For what is brought here to be packed; held by one packer."""
    push: str | None = None
    """URL of a bucket or folder to serve from; None for `snapshots` itself."""
    pack_user: str = ""
    """Who the process that reads a tenant's files runs as; empty for our own user."""
    require_walls: bool = False
    """Whether to start only where that process reaches neither files nor network of others."""
    tls: TlsFiles = field(default_factory=TlsFiles)
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)


def parse_settings(arguments: Sequence[str]) -> PackerSettings:
    """Raises SettingsInvalid; argparse itself exits on unknown flags."""
    parsed = _parser().parse_args(arguments)
    limits = {entry.name: getattr(parsed, entry.name) for entry in fields(Limits)}
    for name, value in limits.items():
        if value <= 0:
            raise SettingsInvalid(f"{_flag(name)} is {value}: give a number above zero")
    made = Limits(**limits)
    if not 1 <= made.lease_seconds <= 600 or made.report_seconds * 3 > made.lease_seconds:
        raise SettingsInvalid(
            f"--lease-seconds {made.lease_seconds:g} must be 1 to 600 and at least three times "
            f"--report-seconds {made.report_seconds:g}, or one late report would lose work"
        )
    if made.wait_seconds > 30:
        raise SettingsInvalid(f"--wait-seconds {made.wait_seconds:g}: give at most 30")
    tls = TlsFiles(parsed.dial_ca, parsed.dial_certificate, parsed.dial_key)
    Address.parse(tls_of(parsed.scheduler, tls, {})[0])
    return PackerSettings(
        scheduler=parsed.scheduler,
        tls=tls,
        key_file=parsed.key_file,
        blob_store=parsed.blob_store,
        snapshots=parsed.snapshots.absolute(),
        work_dir=parsed.work_dir.absolute(),
        push=parsed.push,
        pack_user=_user(parsed.pack_user),
        require_walls=parsed.require_walls,
        log_level=parsed.log_level,
        limits=made,
    )


def _user(name: str) -> str:
    if not name:
        return ""
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise SettingsInvalid(f"--pack-user {name!r}: there is no such user") from error
    if os.geteuid() != 0:
        raise SettingsInvalid(f"--pack-user {name}: only root may start a process as another user")
    if entry.pw_uid == 0:
        raise SettingsInvalid("--pack-user root: name a user that owns nothing, such as nobody")
    return name


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quickthaw packer",
        description="Packs what tenants upload to be deployed, tries it and hands it in.",
    )
    parser.add_argument(
        "--scheduler",
        required=True,
        metavar="HOST:PORT",
        help="its gRPC address; grpcs://HOST:PORT for TLS",
    )
    add_tls_flags(parser)
    parser.add_argument(
        "--key-file", required=True, type=Path, metavar="PATH", help="a key of scope admin"
    )
    parser.add_argument(
        "--blob-store",
        required=True,
        metavar="URL",
        help="a folder or an object-store URL, the one that gateways keep uploads in",
    )
    parser.add_argument(
        "--snapshots", required=True, type=Path, metavar="DIR", help="the store to pack into"
    )
    parser.add_argument(
        "--work-dir",
        required=True,
        type=Path,
        metavar="DIR",
        help="for files while they are packed",
    )
    parser.add_argument(
        "--push",
        metavar="URL",
        help="serve from s3://BUCKET/PREFIX, gs://, az:// or a folder that every worker reaches",
    )
    parser.add_argument(
        "--pack-user",
        default="",
        metavar="NAME",
        help="as whom the process runs that reads a tenant's files; needs root and a --work-dir "
        "that the user can reach",
    )
    parser.add_argument(
        "--require-walls",
        action="store_true",
        help="do not start where that process could reach other files or the network",
    )
    parser.add_argument(
        "--log-level", default="info", choices=LOG_LEVELS, help="the least that is told"
    )
    for entry in fields(Limits):
        parser.add_argument(
            _flag(entry.name),
            type=type(entry.default),
            default=entry.default,
            metavar="N",
            help=f"{entry.metadata['help']} (default {entry.default})",
        )
    return parser
