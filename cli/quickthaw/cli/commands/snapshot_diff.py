"""`quickthaw snapshot diff`: what tells two snapshots apart."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.output import Output
from quickthaw.cli.session import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.snapshot import Snapshot
    from quickthaw.snapshot.diff import ComponentDiff, SnapshotDiff

_SAID = {
    "same": "same",
    "weights": "other weights",
    "layout": "other layout",
    "added": "only in the second",
    "removed": "only in the first",
}


def diff(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A folder as `pack` writes it, or a digest.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--in",
            metavar="FOLDER",
            help="Where digests are looked up. Default: the default data directory's snapshots.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """What differs between two snapshots, and what loading B costs where A is in memory.

    Of the weights, only blocks whose hashes differ are read.

    ```
    quickthaw snapshot diff 3f2a91c0 77b1d4e2 --in ./snapshots
    quickthaw snapshot diff ./base-snapshot ./tuned-snapshot
    ```
    """
    from quickthaw.snapshot.diff import diff as compare

    found = compare(_located(first, folder), _located(second, folder))
    Output(json_).show(_answer(found), lambda console: _render(console, found))


def _located(name: str, folder: Path | None) -> Snapshot:
    from quickthaw.client import default_data_dir
    from quickthaw.snapshot import locate

    if Path(name).exists():
        return locate(Path(name))
    return locate(folder or default_data_dir() / "snapshots", name)


def _answer(found: SnapshotDiff) -> dict[str, object]:
    return {
        "first": found.first,
        "second": found.second,
        "data_bytes": found.data_bytes,
        "changed_bytes": found.changed_bytes,
        "load_bytes": found.load_bytes,
        "components": [asdict(line) for line in found.components],
    }


def _render(console: Console, found: SnapshotDiff) -> None:
    from quickthaw.cli.render import pairs, size, table

    pairs(console, [("A", found.first), ("B", found.second)])
    rows = [_row(line) for line in found.components]
    rows.append(
        ("total", "", "", size(found.data_bytes), size(found.changed_bytes), size(found.load_bytes))
    )
    headings = ("component", "is", "tensors", "size", "changed", "load")
    console.print(table(headings, rows, "tensors size changed load"))
    console.print("[dim]load: what loading B reads where A is in memory[/dim]")
    if found.load_bytes > found.changed_bytes:
        console.print(
            f"[dim]packed with --base {found.first[:12]}, B would load "
            f"{size(found.changed_bytes)}[/dim]"
        )


def _row(line: ComponentDiff) -> tuple[str, ...]:
    from quickthaw.cli.render import size

    sizes = (size(line.data_bytes), size(line.changed_bytes), size(line.load_bytes))
    tensors = f"{line.changed_tensors} of {line.tensors}" if line.changed_tensors else ""
    return (line.name, _SAID[line.change], tensors, *sizes)
