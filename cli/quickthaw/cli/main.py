"""The entry point: puts the commands together and turns every error into a line and a status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from quickthaw.cli.commands import (
    bench,
    billing,
    budget,
    clients,
    deploy,
    deployments,
    endpoints,
    health,
    keys,
    models,
    parts,
    requests,
    run,
    snapshot,
    up,
    webhooks,
    workers,
)
from quickthaw.cli.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    PartFailed,
    UsageFault,
)
from quickthaw.cli.output import report_error
from quickthaw.wire.errors import QuickthawError, RequestCancelled, SettingsInvalid

app = typer.Typer(
    name="quickthaw",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS = {
    "Run a platform": ("up", "endpoint", "workers", "health", "bench"),
    "Run models": (
        *("run", "quote", "models", "requests", "explain", "webhooks"),
        *("env", "run-with"),
    ),
    "Bring models": ("deploy", "deployments", "snapshot"),
    "Keys and money": ("keys", "budget", "usage", "prices"),
    "One part alone": ("scheduler", "worker", "gateway", "packer"),
}
"""The sections of `quickthaw --help`."""
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
_APART = (up.app, run.app, health.app, requests.explain_app, billing.app, clients.app, parts.app)
"""Commands of their own, without a group."""
for commands in _APART:
    for command in commands.registered_commands:
        command.rich_help_panel = _PANEL_OF[command.name or ""]
for commands in (up.app, run.app):
    app.add_typer(commands)
for name, group in (
    ("models", models.app),
    ("endpoint", endpoints.app),
    ("deploy", deploy.app),
    ("deployments", deployments.app),
    ("requests", requests.app),
    ("workers", workers.app),
    ("keys", keys.app),
    ("budget", budget.app),
    ("webhooks", webhooks.app),
    ("snapshot", snapshot.app),
    ("bench", bench.app),
):
    app.add_typer(group, name=name, rich_help_panel=_PANEL_OF[name])
for commands in _APART[2:]:
    app.add_typer(commands)


_TYPERS_WORDS = {
    "Input should be a valid number, unable to parse string as a number": "that is no number",
    "Input should be a valid integer, unable to parse string as an integer": (
        "that is no whole number"
    ),
}
"""What the library that reads the command line says of a value, and how it is said here."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"quickthaw {version('quickthaw')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Serverless inference on your own GPUs.

    Start a platform, draw something, see what it cost and why it ran where it did:

    ```
    quickthaw up &
    quickthaw run shapes prompt="a red circle above a blue square" seed=7
    quickthaw requests
    quickthaw explain
    quickthaw usage
    ```

    A platform on this machine is found by itself; another one by QUICKTHAW_GRPC and QUICKTHAW_KEY.
    Exit status: 0 it worked, 1 it failed, 2 it was called wrongly, 130 it was interrupted.
    """


def execute(arguments: Sequence[str]) -> int:
    """The exit status of `quickthaw ARGUMENTS...`. Errors are told, never raised."""
    as_json = "--json" in arguments
    try:
        status: object = app(args=list(arguments), prog_name="quickthaw", standalone_mode=False)
    except TyperException as error:
        return _report_usage(error, as_json)
    except typer.Abort:
        return _interrupted()
    except (UsageFault, SettingsInvalid) as error:
        report_error(error, as_json)
        return EXIT_USAGE
    except RequestCancelled as error:
        report_error(error, as_json)
        return EXIT_FAILED
    except (QuickthawError, PartFailed, OSError) as error:
        report_error(error, as_json)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return _interrupted()
    if status == EXIT_INTERRUPTED:
        return _interrupted()
    return status if isinstance(status, int) else EXIT_OK


def _report_usage(error: TyperException, as_json: bool) -> int:
    """A mistake in the command line itself. A group called without a command shows its help."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "quickthaw"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return EXIT_USAGE
    message = " ".join(error.format_message().split())
    for words, ours in _TYPERS_WORDS.items():
        message = message.replace(words, ours)
    message = message[:1].lower() + message[1:].rstrip(".")
    report_error(UsageFault(message, f"`{path} --help` shows how it is called"), as_json)
    return EXIT_USAGE


def _interrupted() -> int:
    print("interrupted", file=sys.stderr, flush=True)
    return EXIT_INTERRUPTED


def main() -> NoReturn:
    # Until it is told this, gRPC's library writes lines of its own to stderr, between ours, for
    # each try to reach somebody who speaks something else.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.exit(execute(sys.argv[1:]))
