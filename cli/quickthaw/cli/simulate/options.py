"""From words on the command line to what is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quickthaw.cli.errors import UsageFault
from quickthaw.scheduler.prices import load_prices
from quickthaw.scheduler.simulate import calibration
from quickthaw.scheduler.simulate.calibration import Fleet
from quickthaw.scheduler.simulate.kinds import GpuKind
from quickthaw.scheduler.simulate.policies import BASELINES
from quickthaw.scheduler.simulate.requestlog import RequestLog, read_log
from quickthaw.scheduler.simulate.scenes import REPLAY, SceneSpec, logged_fleet, on_reference
from quickthaw.scheduler.simulate.study import OURS, core_settings
from quickthaw.scheduler.simulate.traces import TRACES

POLICIES = (OURS, *BASELINES)
GPUS_DEFAULT = 100


@dataclass(frozen=True, slots=True)
class Setting:
    """Where everything comes from: the kinds of workers, and one spec for each trace."""

    fleet: Fleet
    specs: Sequence[SceneSpec]
    log: RequestLog | None


def known(flag: str, words: Sequence[str], choices: Sequence[str]) -> list[str]:
    """The words, all of which must be choices; all choices if there are none."""
    if unknown := [word for word in words if word not in choices]:
        raise UsageFault(f"{flag}: there is no {unknown[0]!r}", f"choose from {', '.join(choices)}")
    return list(words or choices)


def changes_of(settings: Sequence[str]) -> dict[str, float]:
    """`NAME=NUMBER` each. Raises UsageFault, SettingsInvalid."""
    found: dict[str, float] = {}
    for each in settings:
        name, _, text = each.partition("=")
        try:
            found[name] = int(text) if text.lstrip("-").isdigit() else float(text)
        except ValueError:
            raise UsageFault(f"--set {each}: must be NAME=NUMBER") from None
    core_settings(found)
    return found


def fleet_of(log: RequestLog | None, name: str, prices: Path | None, timed: Sequence[str]) -> Fleet:
    """Assumptions, then what the log tells, then cold starts that were timed, then prices."""
    fleet = calibration.assumed()
    if log is not None:
        fleet = fleet.logged(log, name)
    for each in timed:
        file, _, types = each.partition("=")
        chosen = [word for word in types.split(",") if word]
        fleet = fleet.cold_started(Path(file), list(fleet.kinds) if chosen == ["all"] else chosen)
    if prices is not None:
        fleet = fleet.priced(load_prices(prices), prices.name)
    return fleet


def workers_of(
    fleet: Fleet, words: Sequence[str], count: int | None, log: RequestLog | None
) -> tuple[tuple[GpuKind, ...], int]:
    """Kinds to take in turn, and how many workers: `--gpu TYPE` or `--gpu TYPE=COUNT`, or those
    that the log saw, or all four kinds."""
    if not words:
        seen = logged_fleet(log, dict(fleet.kinds)) if log is not None else ()
        if seen and count is None:
            return seen, len(seen)
        kinds = tuple(dict.fromkeys(each.gpu_type for each in seen)) or tuple(fleet.kinds)
        return tuple(fleet.kinds[name] for name in kinds), count or GPUS_DEFAULT
    found: list[GpuKind] = []
    counted = False
    for word in words:
        name, _, text = word.partition("=")
        known("--gpu", [name], list(fleet.kinds))
        if text and not (text.isdigit() and 0 < int(text) <= 100_000):
            raise UsageFault(f"--gpu {word}: the number must be from 1 to 100000")
        counted = counted or bool(text)
        found += [fleet.kinds[name]] * (int(text) if text else 1)
    if counted and count is not None:
        raise UsageFault("--gpus: the numbers are in --gpu already")
    return tuple(found), len(found) if counted else count or GPUS_DEFAULT


def setting(
    basis: SceneSpec,
    *,
    traces: Sequence[str],
    replay: Path | None,
    prices: Path | None,
    cold_starts: Sequence[str],
    gpu: Sequence[str],
    gpus: int | None,
) -> Setting:
    """`basis` has all that needs no reading. Raises UsageFault, SettingsInvalid."""
    log = read_log(replay) if replay is not None else None
    fleet = fleet_of(log, replay.name if replay else "", prices, cold_starts)
    if log is not None:
        log = on_reference(log, {name: kind.speed for name, kind in fleet.kinds.items()})
    kinds, workers = workers_of(fleet, gpu, gpus, log)
    names = known("--trace", traces, tuple(TRACES)) if traces or log is None else []
    basis = replace(basis, kinds=kinds, workers=workers)
    specs = [replace(basis, trace=name) for name in names]
    if log is not None:
        specs.append(replace(basis, trace=REPLAY, log=log))
    return Setting(fleet, specs, log)
