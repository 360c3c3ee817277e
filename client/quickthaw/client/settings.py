"""Where the platform is and which key opens it: arguments, then the environment, then `up`'s files.

`quickthaw up` writes `run.json` into its data directory; a caller on the same machine needs no
configuration. This is the only module of the client that reads the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quickthaw.wire.errors import SettingsInvalid, Unauthenticated, Unavailable
from quickthaw.wire.tls_settings import TlsFiles, tls_of

RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A scheduler and a key for it."""

    target: str
    """HOST:PORT."""
    key: str
    tls: bool = False
    files: TlsFiles = field(default_factory=TlsFiles)
    """What goes with TLS."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """What `quickthaw up` says about itself in DATA_DIR/run.json."""

    grpc: str
    http: str
    metrics: str
    key_file: Path
    pid: int

    @classmethod
    def read(cls, data_dir: Path) -> RunFile | None:
        """None where no platform has been started. Raises SettingsInvalid if it is unreadable."""
        path = data_dir / RUN_FILE
        try:
            content = json.loads(path.read_text())
            return cls(
                grpc=str(content["grpc"]),
                http=str(content["http"]),
                metrics=str(content["metrics"]),
                key_file=Path(content["key_file"]),
                pid=int(content["pid"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsInvalid(
                f"{path} cannot be read ({error}); remove it and start `quickthaw up` again"
            ) from error


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$QUICKTHAW_DATA_DIR`, else `~/.local/share/quickthaw`."""
    if configured := environ.get("QUICKTHAW_DATA_DIR"):
        return Path(configured).expanduser()
    return Path.home() / ".local" / "share" / "quickthaw"


def find_target(
    grpc: str | None = None,
    data_dir: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    tls: TlsFiles | None = None,
) -> tuple[str, TlsFiles | None]:
    """The address of `find_endpoint` without a key, and the files for TLS; None for plain text."""
    run_file = RunFile.read(data_dir or default_data_dir(environ))
    from_environment = environ.get("QUICKTHAW_GRPC") if data_dir is None else None
    address = grpc or from_environment or (run_file.grpc if run_file else None)
    if address is None:
        raise Unavailable(
            f"no platform is running in {data_dir or default_data_dir(environ)}: start one with "
            "`quickthaw up`, or name another with QUICKTHAW_GRPC=HOST:PORT"
        )
    return tls_of(address, tls or TlsFiles(), environ)


def find_endpoint(
    grpc: str | None = None,
    key: str | None = None,
    data_dir: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    tls: TlsFiles | None = None,
) -> Endpoint:
    """The platform to talk to.

    `grpc` is `HOST:PORT`, or `grpcs://HOST:PORT` for TLS; without it `$QUICKTHAW_GRPC`, then the
    run file of `data_dir`. What `tls` leaves out `$QUICKTHAW_TLS_CA`, `$QUICKTHAW_TLS_CERT` and
    `$QUICKTHAW_TLS_KEY` may name. `key`, then `$QUICKTHAW_KEY`, then the run file's key file, which
    is used for the run file's own address only: a local admin key is never sent elsewhere. A
    `data_dir` that the caller names goes before the environment. Raises Unavailable if no platform
    is named or running, Unauthenticated if there is no key for it, SettingsInvalid for files that
    cannot be read.
    """
    target, files = find_target(grpc, data_dir, environ, tls)
    run_file = RunFile.read(data_dir or default_data_dir(environ))
    local = run_file if run_file is not None and run_file.grpc == target else None
    secret = key or (environ.get("QUICKTHAW_KEY") if data_dir is None or local is None else None)
    if not secret and local is not None:
        secret = read_key_file(local.key_file)
    if not secret:
        raise Unauthenticated(f"no key for {target}: set QUICKTHAW_KEY, or pass `key`")
    return Endpoint(target, secret, files is not None, files or TlsFiles())


def read_key_file(path: Path) -> str:
    """Raises SettingsInvalid if there is no such file or nothing in it."""
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise SettingsInvalid(f"the key file {path} cannot be read: {error.strerror}") from error
    if not secret:
        raise SettingsInvalid(f"the key file {path} is empty")
    return secret
