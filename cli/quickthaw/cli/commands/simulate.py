"""`quickthaw bench simulate`: the scheduler on virtual time."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.output import Output, stderr
from quickthaw.cli.session import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.cli.simulate.options import Setting
    from quickthaw.scheduler.simulate.outcome import Figures
    from quickthaw.scheduler.simulate.scenes import SceneSpec
    from quickthaw.scheduler.simulate.study import Promise, Sized, Task

TRAFFIC, FLEET, QUESTION, RESULT = "Traffic", "Fleet", "Question", "Result"


def _many(help_: str, metavar: str, panel: str) -> Any:  # what typer.Option returns
    return typer.Option(metavar=metavar, help=help_, show_default=False, rich_help_panel=panel)


def simulate(
    trace: Annotated[
        list[str] | None,
        _many(
            "steady, diurnal, flash, heavy or surprising; may be repeated. Default: all.",
            "NAME",
            TRAFFIC,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        _many("Your own traffic: a log of `quickthaw requests export`.", "LOG", TRAFFIC),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=10, max=10_000_000, help="In each trace.", rich_help_panel=TRAFFIC)
    ] = 20_000,
    rate: Annotated[
        float,
        typer.Option(min=0, help="Requests a second; 0: as --load says.", rich_help_panel=TRAFFIC),
    ] = 0.0,
    load: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=100,
            help="Run time asked for, as share of the fleet's.",
            rich_help_panel=TRAFFIC,
        ),
    ] = 0.4,
    times: Annotated[
        float,
        typer.Option(
            min=0.001, max=1000, help="So many times the traffic.", rich_help_panel=TRAFFIC
        ),
    ] = 1.0,
    models: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000, help="In the catalog, Zipf-popular.", rich_help_panel=TRAFFIC
        ),
    ] = 1_000,
    tenants: Annotated[
        int,
        typer.Option(min=1, max=1_000_000, help="Who ask, Zipf-active.", rich_help_panel=TRAFFIC),
    ] = 20,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="How many workers. Default: 100, or those of the log.",
            show_default=False,
            rich_help_panel=FLEET,
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        _many("Of which type; may be repeated. Default: all.", "TYPE[=COUNT]", FLEET),
    ] = None,
    prices: Annotated[
        Path | None, _many("Your price table: rates by GPU type.", "TOML", FLEET)
    ] = None,
    cold_start: Annotated[
        list[str] | None,
        _many(
            "Load speeds that `quickthaw bench cold-start` measured, for these types or `all`.",
            "FILE[=TYPE,..]",
            FLEET,
        ),
    ] = None,
    disk_gib: Annotated[
        float,
        typer.Option(min=0, help="Of models on each disk at first.", rich_help_panel=FLEET),
    ] = 1_000.0,
    deaths: Annotated[
        int, typer.Option(min=0, help="Workers that die for a minute.", rich_help_panel=FLEET)
    ] = 0,
    slow_disks: Annotated[
        int,
        typer.Option(min=0, help="Disks ten times slower for five minutes.", rich_help_panel=FLEET),
    ] = 0,
    policy: Annotated[
        list[str] | None, _many("Only these; may be repeated. Default: all.", "NAME", QUESTION)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=NUMBER",
            help="A setting of the scheduler's core; may be repeated.",
            show_default=False,
            rich_help_panel=QUESTION,
        ),
    ] = None,
    ablate: Annotated[
        bool,
        typer.Option("--ablate", help="Ours without one part at a time.", rich_help_panel=QUESTION),
    ] = False,
    size: Annotated[
        bool,
        typer.Option(
            "--size",
            help="How many GPUs of each type keep --p99, and what they cost.",
            rich_help_panel=QUESTION,
        ),
    ] = False,
    p99: Annotated[
        float, typer.Option(min=0.001, help="Seconds, for --size.", rich_help_panel=QUESTION)
    ] = 30.0,
    gpus_max: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="Where --size gives up.", rich_help_panel=QUESTION),
    ] = 4_096,
    seed: Annotated[int, typer.Option(min=0, rich_help_panel=QUESTION)] = 1,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="Play as many, from --seed on: means.", rich_help_panel=QUESTION
        ),
    ] = 1,
    jobs: Annotated[
        int,
        typer.Option(min=0, help="Processes; 0: one a core.", rich_help_panel=RESULT),
    ] = 0,
    charts: Annotated[
        bool, typer.Option("--charts", help="Bars in the terminal, too.", rich_help_panel=RESULT)
    ] = False,
    results: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Where the JSON and the picture go.", rich_help_panel=RESULT
        ),
    ] = Path("quickthaw-bench"),
    name: Annotated[
        str, typer.Option(help="Of the result's files.", rich_help_panel=RESULT)
    ] = "simulate",
    json_: JsonOption = False,
) -> None:
    """Play the scheduler on virtual time: compare policies, size a fleet, replay your traffic.

    The scheduler's own code decides, event by event; workers and traffic are played. What the
    workers are like is assumed or measured, and the answer says which. Equal seeds give equal
    answers, to the last bit.

    ```
    quickthaw requests export --output mine.jsonl
    quickthaw bench simulate --replay mine.jsonl --size --p99 20   # how many GPUs, which, how dear
    quickthaw bench simulate --replay mine.jsonl --times 3         # would today's fleet survive it
    quickthaw bench simulate                                       # five traces, eight policies
    quickthaw bench simulate --trace steady --ablate               # what each part is worth
    ```
    """
    from quickthaw.cli.simulate import options
    from quickthaw.scheduler.simulate.scenes import SceneSpec
    from quickthaw.scheduler.simulate.study import Promise

    if size and ablate:
        raise UsageFault("--size and --ablate are two questions", "ask them one after the other")
    if size and seeds > 1:
        raise UsageFault("--seeds: --size searches with one", "ask again with another --seed")
    chosen = options.known("--policy", policy or [], options.POLICIES)
    changes = options.changes_of(set_ or [])
    basis = SceneSpec(
        "", (), 0, seed, requests, models, tenants, load, rate, times, disk_gib, deaths, slow_disks
    )
    asked = options.setting(
        basis,
        traces=trace or [],
        replay=replay,
        prices=prices,
        cold_starts=cold_start or [],
        gpu=gpu or [],
        gpus=gpus,
    )
    processes = jobs or os.cpu_count() or 1
    session = _Session(Output(json_), asked, processes, results, name, changes, seeds)
    if size:
        session.size(Promise(p99, gpus_max))
    elif ablate:
        session.ablate()
    else:
        session.compare(chosen, charts)


class _Session:
    """One call of the command: asks, shows, writes down."""

    def __init__(
        self,
        out: Output,
        asked: Setting,
        processes: int,
        folder: Path,
        name: str,
        changes: dict[str, float],
        seeds: int,
    ) -> None:
        self._out = out
        self._asked = asked
        self._processes = processes
        self._folder = folder
        self._name = name
        self._changes = changes
        self._seeds = seeds
        self._err: Console = stderr()

    def compare(self, policies: list[str], charts: bool) -> None:
        from quickthaw.cli.simulate import recorded, tables
        from quickthaw.scheduler.simulate.study import Task

        found = self._run(
            [Task(spec, each, self._changes) for spec in self._drawn() for each in policies]
        )

        def render(console: Console) -> None:
            for trace, rows in found.items():
                console.print(tables.comparison(trace, rows))
                if charts:
                    tables.charts(console, rows)
                console.print()
            self._assumptions(console)

        self._finish("compare", recorded.compared(found), render)
        self._draw(found)

    def ablate(self) -> None:
        from quickthaw.cli.simulate import recorded, tables
        from quickthaw.scheduler.simulate.study import ablation

        found = self._run(
            [task for spec in self._drawn() for task in ablation(spec, self._changes)]
        )

        def render(console: Console) -> None:
            for trace, rows in found.items():
                console.print(tables.ablation(f"{trace}: what is lost without each part", rows))
                console.print()
            self._assumptions(console)

        self._finish("ablate", recorded.compared(found), render)

    def size(self, promise: Promise) -> None:
        from quickthaw.cli.simulate import recorded, tables
        from quickthaw.cli.simulate.advice import advice
        from quickthaw.scheduler.simulate.study import Question, size_all

        answers: dict[str, tuple[list[Sized], list[str]]] = {}
        kinds = {kind.gpu_type: kind for spec in self._asked.specs for kind in spec.kinds}
        for spec in self._asked.specs:
            questions = [Question(spec, kind, promise, self._changes) for kind in kinds.values()]
            found = []
            for sized in size_all(questions, self._processes):
                found.append(sized)
                self._say(f"{spec.trace}: {sized.kind.gpu_type}")
            answers[spec.trace] = (found, advice(found, promise, self._failing(spec, found)))

        def render(console: Console) -> None:
            for trace, (found, lines) in answers.items():
                title = (
                    f"{trace}: the smallest fleet that keeps p99 under {promise.p99_seconds:g} s"
                )
                console.print(tables.sizes(title, found))
                console.print()
                for line in lines:
                    console.print(f"  {line}", markup=False)
                console.print()
            self._assumptions(console)

        plain = {
            trace: {"fleets": [recorded.size(each) for each in found], "advice": lines}
            for trace, (found, lines) in answers.items()
        }
        self._finish("size", plain, render)

    def _failing(self, spec: SceneSpec, found: list[Sized]) -> Sized | None:
        """The cheapest fleet once more, while a tenth of it (at least one) dies for a minute."""
        from dataclasses import replace

        from quickthaw.scheduler.simulate.study import OURS, Sized, simulate

        enough = [each for each in found if each.dollars_per_hour is not None]
        if not enough:
            return None
        best = min(enough, key=lambda each: each.dollars_per_hour or 0.0)
        workers = best.workers or 1
        if workers < 2:
            return None
        scene = spec.with_fleet(best.kind, workers).scene()
        scene = replace(scene, deaths=max(1, workers // 10))
        return Sized(best.kind, workers, simulate(scene, OURS, self._changes))

    def _drawn(self) -> list[SceneSpec]:
        return [each for spec in self._asked.specs for each in spec.drawn(self._seeds)]

    def _run(self, tasks: list[Task]) -> dict[str, dict[str, Figures]]:
        """By trace and name; means over the seeds."""
        from quickthaw.scheduler.simulate.outcome import mean
        from quickthaw.scheduler.simulate.study import run_all

        found: dict[str, dict[str, list[Figures]]] = {}
        for task, figures in run_all(tasks, self._processes):
            found.setdefault(task.spec.trace, {}).setdefault(task.name, []).append(figures)
            seed = f", seed {task.spec.seed}" if self._seeds > 1 else ""
            self._say(f"{task.spec.trace}: {task.name}{seed}")
        return {
            trace: {name: mean(each) for name, each in rows.items()}
            for trace, rows in found.items()
        }

    def _say(self, line: str) -> None:
        self._err.print(line, style="dim", markup=False)

    def _assumptions(self, console: Console) -> None:
        from quickthaw.cli.simulate import tables

        asked = self._asked
        used = list(dict.fromkeys(k.gpu_type for spec in asked.specs for k in spec.kinds))
        console.print(tables.gpus(asked.fleet, used))
        for line in tables.sources(asked.fleet, used):
            console.print(f"  {line}", style="dim", markup=False)
        if asked.log is not None and asked.log.never_ran:
            left_out = (
                f"left out, since they never ran: {asked.log.never_ran} of the log's requests"
            )
            console.print(left_out, style="dim")

    def _finish(self, question: str, answers: dict[str, Any], render: Any) -> None:
        from quickthaw.cli.bench import recording
        from quickthaw.cli.simulate import recorded

        written = recording.document(
            self._name,
            f"quickthaw {' '.join(sys.argv[1:])}",
            {
                "question": question,
                "seeds": self._seeds,
                **recorded.parameters(self._asked, self._changes),
            },
            answers,
        )
        self._out.show(written, render)
        self._err.print(f"written: {recording.write(written, self._folder)}", markup=False)

    def _draw(self, found: dict[str, dict[str, Figures]]) -> None:
        from quickthaw.cli.simulate import plots

        if plots.can_plot():
            path = plots.plot(found, self._folder / f"{self._name}.png")
            self._err.print(f"written: {path}", markup=False)
        else:
            self._err.print("no picture: pip install 'quickthaw[bench]'", markup=False)
