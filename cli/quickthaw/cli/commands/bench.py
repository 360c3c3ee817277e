"""`quickthaw bench ...`: how fast models come up on this machine, beside other loaders."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from quickthaw.cli.commands.replay import replay
from quickthaw.cli.commands.simulate import simulate
from quickthaw.cli.errors import UsageFault
from quickthaw.cli.output import Output, stderr
from quickthaw.cli.session import JsonOption

if TYPE_CHECKING:
    from quickthaw.cli.bench.cold_start import Watch
    from quickthaw.cli.bench.peers import Peer
    from quickthaw.cli.bench.rows import From

app = typer.Typer(
    help="Measure this machine (cold-start, peers, show, clean) or judge a fleet without one "
    "(simulate, replay).",
    no_args_is_help=True,
)
app.command("simulate")(simulate)
app.command("replay")(replay)
FolderOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the files go, whose disk is measured. Default: quickthaw/bench in the cache "
        "directory.",
        show_default=False,
    ),
]


@app.command("cold-start")
def cold_start(
    model: Annotated[
        str, typer.Option(help="sd15, sdxl, flux, flux-fp8 or svd: a synthetic one of that size.")
    ] = "sdxl",
    scale: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1.0,
            help="Share of the real size: the model is made narrower, with as many tensors. "
            "Default: what fits into memory and disk.",
            show_default=False,
        ),
    ] = None,
    size_gb: Annotated[
        float | None, typer.Option(min=0.01, help="The same in gigabytes, at most.")
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(
            metavar="SNAPSHOT",
            help="Measure this instead: a snapshot's folder, a digest of `snapshot list`, or a "
            "diffusers folder (packed first).",
            show_default=False,
        ),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Which one, where the folder holds several."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    tiers: Annotated[
        str, typer.Option(help="Where the bytes are before the clock starts, comma-separated.")
    ] = "disk,page-cache,pinned,remote",
    peers: Annotated[
        str,
        typer.Option(help="Loaders to measure beside ours, comma-separated; `all`, or `none`."),
    ] = "all",
    rounds: Annotated[int, typer.Option(min=1, help="How often each row is measured.")] = 7,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Begin no round that would not end by then; one is always measured.",
            show_default=False,
        ),
    ] = None,
    readers: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Threads that read, of ours and of the floors; a worker has 16."
        ),
    ] = 16,
    torch_threads: Annotated[
        int,
        typer.Option(
            min=1,
            help="torch's own threads in each loader's process. One is several times faster than "
            "two where memory is cloned on few cores.",
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of the rows' order.")] = 0,
    folder: FolderOption = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the model's files for the next run of the same."),
    ] = False,
    results: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the JSON and the picture go.")
    ] = Path("quickthaw-bench"),
    name: Annotated[str, typer.Option(help="Of the result's files.")] = "cold_start",
    targets: Annotated[
        bool,
        typer.Option("--targets", help="Show each goal beside what was measured, met or missed."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """How long until a model is ready, from each tier, beside other loaders and the hardware.

    Makes a model of the size you choose (or takes yours), loads it with Quickthaw and with every
    other loader that is installed, in alternation, and compares each with what the disk and the
    memory of this machine can do at best. Every tensor of every load is compared with the file.
    Cold means that the page cache held nothing of the files, which is looked at, not assumed.

    ```
    quickthaw bench cold-start                                # SDXL, as large as fits
    quickthaw bench cold-start --model flux --device cuda     # the real size, on a GPU
    quickthaw bench cold-start --snapshot ./my-snapshot --peers diffusers,safetensors-mmap
    quickthaw bench cold-start --scale 0.1 --rounds 3 --targets
    ```

    Other loaders: `pip install 'quickthaw[bench]'` brings those that install everywhere, and
    matplotlib for the picture. Nothing is left behind but the results, unless `--keep` is given.
    Exit status 1: some loader failed or gave wrong bytes; the others' numbers are there.
    """
    from quickthaw.cli.bench import cold_start as bench
    from quickthaw.cli.bench.options import Options
    from quickthaw.cli.bench.workspace import default_folder

    if device not in ("cpu", "cuda"):
        raise UsageFault(f"--device is cpu or cuda, not {device!r}")
    options = Options(
        model=model,
        folder=folder or default_folder(),
        peers=_peers(peers),
        command=f"quickthaw {' '.join(sys.argv[1:])}",
        name=name,
        scale=scale,
        size_gb=size_gb,
        snapshot=snapshot,
        digest=digest,
        device=device,
        starts=_tiers(tiers),
        rounds=rounds,
        limit_seconds=time_limit,
        readers=readers,
        torch_threads=torch_threads,
        seed=seed,
        keep=keep,
    )
    with _watching() as watch, _ended_by_signal():
        written = bench.run(options, watch)
    _show(written, results, json_, targets)
    if not bench.succeeded(written):
        raise typer.Exit(1)


@app.command("show")
def show(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A JSON file of a run.")],
    targets: Annotated[bool, typer.Option("--targets", help="The goals, too.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw it into this file.")
    ] = None,
) -> None:
    """Show a run's result again, as the run did, or as Markdown or a picture.

    ```
    quickthaw bench show quickthaw-bench/cold_start.json --targets
    ```
    """
    from quickthaw.cli.bench.companions import companion_targets
    from quickthaw.cli.bench.markdown import markdown as as_markdown
    from quickthaw.cli.bench.plot import plot
    from quickthaw.cli.bench.reading import read_document
    from quickthaw.cli.bench.render import report
    from quickthaw.cli.output import stdout

    written = read_document(result)
    if picture is not None:
        _need_matplotlib()
        plot(written, picture)
    if markdown:
        print(as_markdown(written, str(result)))
    else:
        report(
            stdout(),
            written,
            show_targets=targets,
            more_targets=companion_targets(result.parent),
        )


@app.command("peers")
def list_peers(json_: JsonOption = False) -> None:
    """The loaders that can be measured, and whether they are installed."""
    from quickthaw.cli.bench.peers.base import not_installed, version
    from quickthaw.cli.bench.peers.registry import PEERS
    from quickthaw.cli.render import table

    found = [
        {
            "name": peer.name,
            "title": peer.title,
            "version": version(peer.distribution),
            "call": peer.call,
            "note": not_installed(peer.distribution) or "",
        }
        for peer in PEERS
    ]
    rows = [[each["name"], each["version"] or each["note"], each["call"]] for each in found]
    Output(json_).show(
        found, lambda console: console.print(table(("name", "version", "call"), rows))
    )


@app.command("clean")
def clean(folder: FolderOption = None) -> None:
    """Remove the models that `--keep` kept, and what killed runs left."""
    from quickthaw.cli.bench.workspace import default_folder, remove_kept, remove_left_over
    from quickthaw.cli.render import size

    place = folder or default_folder()
    remove_left_over(place)
    print(f"{size(remove_kept(place))} removed from {place}")


def _peers(text: str) -> tuple[Peer, ...]:
    from quickthaw.cli.bench.peers.registry import PEERS, find

    match text:
        case "all":
            return PEERS
        case "none":
            return ()
        case _:
            return tuple(find(name.strip()) for name in text.split(","))


def _tiers(text: str) -> tuple[From, ...]:
    from quickthaw.cli.bench.rows import From

    known = ", ".join(From)
    found: list[From] = []
    for word in text.split(","):
        try:
            found.append(From(word.strip()))
        except ValueError:
            raise UsageFault(
                f"there is no tier {word.strip()!r}", f"the tiers are: {known}"
            ) from None
    return tuple(start for start in From if start in found)


@contextmanager
def _watching() -> Iterator[Watch]:
    """Lines and a bar on stderr; where that is no terminal, a line a round."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from quickthaw.cli.bench.cold_start import Watch

    console = stderr()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task("")
        said = ""

        def making(done: int, total: int) -> None:
            progress.update(task, description="writing the model", completed=done, total=total)

        def step(done: int, total: int, what: str) -> None:
            nonlocal said
            progress.update(task, description=what, completed=done, total=total)
            if not console.is_terminal and (part := what.partition(":")[0]) != said:
                said = part
                console.print(part, markup=False)

        def say(line: str) -> None:
            progress.console.print(line, markup=False)

        yield Watch(say, making, step)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """A polite kill ends a run like Ctrl-C does: processes ended, files removed."""

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(written: dict[str, Any], folder: Path, as_json: bool, targets: bool) -> None:
    from quickthaw.cli.bench.companions import companion_targets
    from quickthaw.cli.bench.plot import can_plot, plot
    from quickthaw.cli.bench.recording import write
    from quickthaw.cli.bench.render import report

    path = write(written, folder)
    more = companion_targets(folder)
    Output(as_json).show(
        written,
        lambda console: report(console, written, show_targets=targets, more_targets=more),
    )

    def say(line: str) -> None:
        stderr().print(line, markup=False)

    say(f"written: {path}")
    if can_plot():
        say(f"written: {plot(written, path.with_suffix('.png'))}")
    else:
        say("no picture: pip install matplotlib, then `quickthaw bench show --picture`")


def _need_matplotlib() -> None:
    from quickthaw.cli.bench.plot import can_plot

    if not can_plot():
        raise UsageFault("a picture needs matplotlib", "pip install 'quickthaw[bench]'")
