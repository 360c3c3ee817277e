"""The scheduler on virtual time: compare policies, take the score apart, size a fleet.

    python -m bench.simulate                                  every trace, every policy
    python -m bench.simulate --trace flash --workers 1000 --requests 200000
    python -m bench.simulate --ablate --trace steady          what each term of the score is worth
    python -m bench.simulate --size --replay requests.jsonl --p99 20
                                                              how many GPUs, and what they cost

The scheduler's own core decides, event by event; only workers and traffic are made up. Load and run
times of the GPUs are assumptions of the size that vendors and clouds state, not measurements: read
differences between policies, not absolute seconds. Equal seeds give equal figures, to the last bit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.simulate import report
from bench.simulate.outcome import Figures
from bench.simulate.policies import BASELINES
from bench.simulate.study import (
    OURS,
    Scene,
    Sized,
    a_random,
    ablate,
    compare,
    core_settings,
    size_fleet,
    stocked,
)
from bench.simulate.traces import TRACES, Arrival, Traffic, catalog, recorded
from bench.simulate.world import KINDS, GpuKind
from bench.support import RESULTS, record

from quickthaw.scheduler.core.model import ModelSpec

MEAN_UNITS_SHARE = 0.9 * 1.2
"""Of `mean_units x unit_seconds`: the mean of the traces' spreads of work and of models' paces."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--trace", choices=tuple(TRACES), action="append", help="may be repeated; all of them")
    add("--replay", type=Path, help="a log of your own: `quickthaw requests list --json` lines")
    add("--policy", choices=(OURS, *BASELINES), action="append", help="may be repeated; all")
    add("--requests", type=int, default=20_000, help="in each trace (20000)")
    add("--workers", type=int, default=100, help="GPUs, the kinds in turn (100)")
    add("--kind", choices=tuple(KINDS), action="append", help="may be repeated; all four")
    add("--models", type=int, default=1_000, help="in the catalog, Zipf-popular (1000)")
    add("--tenants", type=int, default=20, help="who ask, Zipf-active (20)")
    add("--load", type=float, default=0.4, help="run time asked for, as share of the fleet's (0.4)")
    add("--disk-gib", type=float, default=1_000.0, help="of models on each disk at first (1000)")
    add("--deaths", type=int, default=0, help="workers that die for a minute (0)")
    add("--slow-disks", type=int, default=0, help="disks ten times slower for five minutes (0)")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of the core")
    add("--ablate", action="store_true", help="ours without one thing at a time")
    add("--size", action="store_true", help="the smallest fleet of each kind that keeps --p99")
    add("--p99", type=float, default=30.0, help="seconds that --size must keep (30)")
    add("--workers-max", type=int, default=4_096, help="where --size gives up (4096)")
    add("--seed", type=int, default=1)
    add("--name", default="simulate", help="of the result and the picture")
    add("--results", type=Path, default=RESULTS, help="folder for them")
    return parser.parse_args(arguments)


def changes_of(settings: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in settings:
        name, _, text = each.partition("=")
        try:
            found[name] = int(text) if text.lstrip("-").isdigit() else float(text)
            core_settings(found)
        except (ValueError, TypeError) as error:
            raise SystemExit(f"--set {each}: {error}") from error
    return found


def scenes(options: argparse.Namespace) -> Mapping[str, Scene]:
    kinds = [KINDS[name] for name in options.kind or KINDS]
    fleet: list[GpuKind] = [kinds[number % len(kinds)] for number in range(options.workers)]
    names = options.trace or ([] if options.replay else list(TRACES))
    found: dict[str, Scene] = {}
    models = catalog(a_random(options.seed, "models"), options.models)

    def scene(models: Sequence[ModelSpec], arrivals: Sequence[Arrival]) -> Scene:
        return Scene(
            models,
            arrivals,
            fleet,
            stocked(models, options.disk_gib),
            options.seed,
            options.deaths,
            options.slow_disks,
        )

    for name in names:
        traffic = Traffic(options.models, options.tenants, options.requests, 1.0)
        seconds = traffic.mean_units * traffic.unit_seconds * MEAN_UNITS_SHARE
        rate = options.load * sum(kind.speed for kind in fleet) / seconds
        traffic = Traffic(options.models, options.tenants, options.requests, rate)
        arrivals = list(TRACES[name](a_random(options.seed, name), traffic))
        found[name] = scene(models, arrivals)
    if options.replay:
        log = recorded(options.replay)
        found["replay"] = scene(
            catalog(a_random(options.seed, "models"), len(log.models)), log.arrivals
        )
    return found


def main() -> None:
    options = parse(sys.argv[1:])
    changes = changes_of(options.set)
    results: dict[str, object] = {}
    tables: dict[str, dict[str, Figures]] = {}
    for trace, scene in scenes(options).items():
        span = scene.arrivals[-1].at_seconds
        report.say(f"{trace}: {len(scene.arrivals)} requests in {span:.0f} s of virtual time")
        began = time.perf_counter()
        if options.size:
            kinds = {kind.gpu_type: kind for kind in scene.kinds}.values()
            sized: list[Sized] = []
            for kind in kinds:
                sized.append(size_fleet(scene, kind, options.p99, options.workers_max, changes))
                report.say(f"  {kind.gpu_type}: {time.perf_counter() - began:.0f} s")
            report.sizes(trace, options.p99, sized)
            results[trace] = report.sized(sized)
            continue
        rows = (
            ablate(scene, changes)
            if options.ablate
            else compare(scene, options.policy or [OURS, *BASELINES], changes)
        )
        tables[trace] = {}
        for policy, figures in rows:
            tables[trace][policy] = figures
            report.say(f"  {policy}: {time.perf_counter() - began:.0f} s")
        report.table(trace, tables[trace])
        results[trace] = {name: each._asdict() for name, each in tables[trace].items()}
    parameters = {
        name: [str(each) for each in value] if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name not in ("results", "name", "replay")
    }
    parameters["replay"] = options.replay.name if options.replay else None
    record(options.name, parameters, results, options.results)
    if tables:
        report.picture(tables, options.results / f"{options.name}.png")


if __name__ == "__main__":
    main()
