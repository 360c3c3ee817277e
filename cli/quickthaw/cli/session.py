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

_SHARED = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
    for name, kind, default in (
        ("json_", JsonOption, False),
        ("data_dir", DataDirOption, None),
        ("grpc", GrpcOption, None),
    )
)


@dataclass(frozen=True, slots=True)
class Session:
    """One command's view of the platform."""

    out: Output
    data_dir: Path | None
    grpc: str | None

    def client(self) -> Client:
        """Raises SettingsInvalid if no platform or key is found."""
        from quickthaw.client import Client

        return Client(self.grpc, data_dir=self.data_dir)


def session_command(app: typer.Typer, name: str | None = None) -> Callable[[F], F]:
    """Adds a command whose first parameter is the session; `--json` and the like come with it."""

    def register(function: F) -> F:
        own = tuple(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(**options: object) -> None:
            session = Session(
                out=Output(bool(options.pop("json_"))),
                data_dir=_path(options.pop("data_dir")),
                grpc=_text(options.pop("grpc")),
            )
            function(session, **options)

        command.__doc__ = function.__doc__
        # Typer reads a command's options from its signature, so the shared ones are added there.
        signature = inspect.Signature(
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *_SHARED)]
        )
        vars(command)["__signature__"] = signature
        app.command(name)(command)
        return function

    return register


def _path(value: object) -> Path | None:
    return value if isinstance(value, Path) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
