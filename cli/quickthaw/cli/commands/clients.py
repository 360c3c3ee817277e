"""`quickthaw env` and `quickthaw run-with`: other people's clients, pointed here."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.output import Output
from quickthaw.cli.session import DataDirOption, JsonOption

app = typer.Typer()

ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT", help="fal, openai or replicate.")]


@app.command("env")
def env(client: ClientArgument, data_dir: DataDirOption = None, json_: JsonOption = False) -> None:
    """Print the environment variables that point an unmodified client at this platform.

    ```
    eval "$(quickthaw env fal)"      # from now on in this shell
    python app.py                    # which uses fal_client or @fal-ai/client as it is
    ```

    fal's clients are reached through HTTPS_PROXY: all https traffic of the program goes to the
    gateway, which answers for fal's names and refuses every other. A program that needs others too
    is better started with `NO_PROXY` for those. The key in the output is the platform's own.
    """
    from quickthaw.cli.pointing import check_client, find_place, variables

    check_client(client)
    found = variables(client, find_place(data_dir))
    Output(json_).show(
        found,
        lambda _: print(*(f"export {name}={shlex.quote(found[name])}" for name in found), sep="\n"),
    )


@app.command(
    "run-with", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True}
)
def run_with(
    client: ClientArgument,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="With arguments.")],
    data_dir: DataDirOption = None,
) -> None:
    """Run one command whose client library is pointed at this platform.

    ```
    quickthaw run-with fal -- python app.py
    ```
    """
    from quickthaw.cli.pointing import check_client, find_place, variables

    check_client(client)
    wanted = command[1:] if command[0] == "--" else command
    if not wanted:
        raise UsageFault("there is no command to run", "quickthaw run-with fal -- python app.py")
    environment = {**os.environ, **variables(client, find_place(data_dir))}
    _become(wanted, environment)


def _become(command: list[str], environment: dict[str, str]) -> None:
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        where = "" if Path(command[0]).parent == Path() else " there"
        raise UsageFault(f"{command[0]}: {error.strerror}{where}") from error
