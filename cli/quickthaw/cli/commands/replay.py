"""`quickthaw bench replay`: decisions of a scheduler made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.output import Output
from quickthaw.cli.session import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.scheduler.decision_log import Replayed


def replay(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG", help="The folder `decisions` of a data directory, or a file of it."
        ),
    ],
    json_: JsonOption = False,
) -> None:
    """Make a scheduler's decisions again, and say whether they come out the same.

    A scheduler that was started with `--decision-log-mib 256` writes down all that it was told and
    decided. Fed with the same, the same release must decide the same; where it does not, the first
    difference is shown, and the exit status is 1.

    ```
    quickthaw bench replay ~/.local/share/quickthaw/decisions
    ```
    """
    from quickthaw.scheduler.decision_log import release, segments
    from quickthaw.scheduler.decision_log import replay as replay_file

    files = segments(log) if log.is_dir() else [log] if log.exists() else []
    if not files:
        raise UsageFault(
            f"{log} holds no decision log", "start the scheduler with --decision-log-mib 256"
        )
    results = {path.name: replay_file(path, release()) for path in files}
    Output(json_).show(_plain(results), lambda console: _render(console, results))
    if any(each.difference for each in results.values()):
        raise typer.Exit(1)


def _plain(results: dict[str, Replayed]) -> dict[str, object]:
    return {
        name: {
            "events": each.events,
            "decisions": each.decisions,
            "same": each.difference is None,
            "cut_off": each.cut_off,
            "difference": each.difference._asdict() if each.difference else None,
        }
        for name, each in results.items()
    }


def _render(console: Console, results: dict[str, Replayed]) -> None:
    for name, each in results.items():
        told = f"{name}: {each.events:,} events, {each.decisions:,} decisions"
        end = " [dim](the end was cut off)[/dim]" if each.cut_off else ""
        if each.difference is None:
            console.print(f"{told}: [green]all the same[/green]{end}")
            continue
        console.print(f"{told}: [red]event {each.difference.place:,} came out otherwise[/red]")
        console.print(f"  told      {each.difference.told}", markup=False)
        console.print(f"  recorded  {each.difference.recorded}", markup=False)
        console.print(f"  replayed  {each.difference.replayed}", markup=False)
