"""`quickthaw snapshot compile`: machine code for a model's blocks, ahead of requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.output import Output
from quickthaw.cli.session import JsonOption

if TYPE_CHECKING:
    from rich.console import Console


def compile_blocks(
    digest: Annotated[
        str, typer.Argument(metavar="DIGEST", help="Of the snapshot; the beginning is enough.")
    ],
    shapes: Annotated[
        str,
        typer.Option(
            metavar="SHAPES",
            help="Sizes to draw at, with commas: 1024x1024, or 1024x1024x4 for four pictures at "
            "once. Default: the model's own, which mostly serves every other.",
            show_default=False,
        ),
    ] = "",
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the snapshot is. Default: the snapshots of the default data directory.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where compiled code is kept: what workers are given as --compiled-cache. "
            "Default: `compiled` in the default data directory.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="What it is compiled for: cpu or cuda:N.")] = "cpu",
    threads: Annotated[
        int, typer.Option(help="CPU threads of a worker, if its --torch-threads says so.")
    ] = 0,
    json_: JsonOption = False,
) -> None:
    """Compile the repeated blocks of a model, so that workers need not.

    The model is loaded and draws one step of each size, to learn how its blocks are called. What is
    compiled then is for every size that the blocks allow, and runs on this machine only: it is
    signed with a key of this installation, and nothing else is ever run. Workers use it with
    `--compiled use`. Needs a C++ compiler.

    ```
    quickthaw snapshot compile 3f8a
    quickthaw up --compiled use
    ```
    """
    import json
    import subprocess
    import sys

    from quickthaw.cli.errors import PartFailed
    from quickthaw.client import default_data_dir
    from quickthaw.snapshot import locate

    found = locate(store or default_data_dir() / "snapshots", digest)
    command = [sys.executable, "-m", "quickthaw.worker.compile"]
    command += ["--snapshot-store", str(found.store.root), "--digest", found.digest]
    command += ["--compiled-cache", str((cache or default_data_dir() / "compiled").absolute())]
    command += ["--device", device, "--torch-threads", str(threads)]
    for shape in filter(None, (part.strip() for part in shapes.split(","))):
        command += ["--shape", shape]
    # The compiler must find the worker's own code, in a process that the worker's could be.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise PartFailed(f"compiling {found.digest[:16]} failed; see above")
    answer = json.loads(done.stdout.splitlines()[-1])

    def render(console: Console) -> None:
        for problem in answer["problems"]:
            console.print(f"[yellow]not compiled[/yellow]: {problem}")
        console.print(
            f"{found.digest[:16]}: {answer['compiled']} compiled in {answer['seconds']:.0f} s, "
            f"kept in {answer['cache']}"
        )

    Output(json_).show(answer, render)
