"""What every command that talks to a platform shares: its options and its client."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from quickthaw.cli.output import Output

if TYPE_CHECKING:
    from quickthaw.client import Client

F = TypeVar("F", bound=Callable[..., None])

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON with stable names, and nothing else, on stdout.")
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="The data directory of the `quickthaw up` to talk to. "
        "Default: $QUICKTHAW_DATA_DIR, else ~/.local/share/quickthaw.",
        show_default=False,
    ),
]
GrpcOption = Annotated[
    str | None,
    typer.Option(
        "--grpc",
        metavar="HOST:PORT",
        help="A platform elsewhere; grpcs://HOST:PORT for TLS. Default: $QUICKTHAW_GRPC. "
        "Its key is read from $QUICKTHAW_KEY.",
        show_default=False,
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        metavar="PEM",
        help="Who signed the certificate of a grpcs:// platform. Default: $QUICKTHAW_TLS_CA, else "
        "the system's roots.",
        show_default=False,
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        metavar="PEM",
        help="Shown to a platform that asks who calls. Default: $QUICKTHAW_TLS_CERT.",
        show_default=False,
    ),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        metavar="PEM",
        help="The key of --tls-cert. Default: $QUICKTHAW_TLS_KEY.",
        show_default=False,
    ),
]

_SHARED = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
    for name, kind, default in (
        ("json_", JsonOption, False),
        ("data_dir", DataDirOption, None),
        ("grpc", GrpcOption, None),
        ("tls_ca", TlsCaOption, None),
        ("tls_cert", TlsCertOption, None),
        ("tls_key", TlsKeyOption, None),
    )
)


@dataclass(frozen=True, slots=True)
class Session:
    """One command's view of the platform."""

    out: Output
    data_dir: Path | None
    grpc: str | None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def client(self) -> Client:
        """Raises SettingsInvalid if no platform or key is found."""
        from quickthaw.client import Client, TlsFiles

        tls = TlsFiles(self.tls_ca, self.tls_cert, self.tls_key)
        return Client(self.grpc, data_dir=self.data_dir, tls=tls)

    def is_serving(self, timeout_seconds: float) -> bool:
        """Raises as `quickthaw.client.serving`."""
        from quickthaw.client import TlsFiles, serving

        tls = TlsFiles(self.tls_ca, self.tls_cert, self.tls_key)
        return serving(self.grpc, data_dir=self.data_dir, tls=tls, timeout_seconds=timeout_seconds)


def session_command(app: typer.Typer, name: str | None = None) -> Callable[[F], F]:
    """Adds a command whose first parameter is the session; `--json` and the like come with it."""

    def register(function: F) -> F:
        app.command(name)(_with_session(function))
        return function

    return register


def session_default(app: typer.Typer) -> Callable[[F], F]:
    """What a group of commands does when it is called without one. Its options hold for all."""

    def register(function: F) -> F:
        command = _with_session(function, unless_subcommand=True)
        app.callback(invoke_without_command=True)(command)
        return function

    return register


def _with_session(
    function: Callable[..., None], unless_subcommand: bool = False
) -> Callable[..., None]:
    own = tuple(inspect.signature(function, eval_str=True).parameters.values())[1:]

    def command(context: typer.Context, **options: object) -> None:
        for shared in _SHARED:
            del options[shared.name]
        if not (unless_subcommand and context.invoked_subcommand):
            function(_session(context), **options)

    command.__doc__ = function.__doc__
    # Typer reads a command's options from its signature, so the shared ones are added there.
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    signature = inspect.Signature(
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (context, *own, *_SHARED)]
    )
    vars(command)["__signature__"] = signature
    return command


def _session(context: typer.Context) -> Session:
    """From the command's own options, then its group's: `models --json list` is allowed."""
    chain = [context.params]
    if context.parent is not None:
        chain.append(context.parent.params)
    options = {
        shared.name: next((p[shared.name] for p in chain if p.get(shared.name)), shared.default)
        for shared in _SHARED
    }
    return Session(
        out=Output(as_json=bool(options["json_"])),
        data_dir=options["data_dir"],
        grpc=options["grpc"],
        tls_ca=options["tls_ca"],
        tls_cert=options["tls_cert"],
        tls_key=options["tls_key"],
    )
