"""The parts of the platform as commands of their own, for running them apart."""

from __future__ import annotations

import os
import sys

import typer

app = typer.Typer()

# Everything after the command's name is the part's own, `--help` included.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _become(module: str, context: typer.Context) -> None:
    os.execv(sys.executable, [sys.executable, "-m", module, *context.args])


@app.command("scheduler", context_settings=_PASS_ON)
def scheduler(context: typer.Context) -> None:
    """Run a scheduler alone. All arguments are its own; see `scheduler --help`."""
    _become("quickthaw.scheduler", context)


@app.command("worker", context_settings=_PASS_ON)
def worker(context: typer.Context) -> None:
    """Run a worker alone, here or on another machine; see `worker --help`."""
    _become("quickthaw.worker", context)


@app.command("gateway", context_settings=_PASS_ON)
def gateway(context: typer.Context) -> None:
    """Run an HTTP gateway alone; see `gateway --help`."""
    _become("quickthaw.gateway", context)


@app.command("packer", context_settings=_PASS_ON)
def packer(context: typer.Context) -> None:
    """Run a packer of tenants' models alone; see `packer --help`."""
    _become("quickthaw.cli.packer", context)
