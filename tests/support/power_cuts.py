"""What is done to stores, cut off at every moment, and what must hold of what is left."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.remote import open_remote
from quickthaw.snapshot.remote.pull import pull
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import QuickthawError
from support.fuzz.micro import micro_flux, micro_sd
from support.power import Tree, crash_states, recording, restore

REPEATED_PACKS_MAX = 12
"""Packing again takes longer than everything else here."""


@dataclass(frozen=True, slots=True)
class Places:
    """`work`: the store that is cut off. `source`: another one, sound, that holds both models."""

    work: Path
    source: Path
    sd: str
    flux: str


@dataclass(frozen=True, slots=True)
class Operation:
    """`whole`: the snapshots that must be there after a repeat; `kept`: at all times."""

    prepare: Callable[[Places], object]
    run: Callable[[Places], object]
    whole: Callable[[Places], set[str]]
    kept: Callable[[Places], set[str]]
    repeats_max: int | None = None
    damaged: bool = False
    """What is there before is broken, and may stay so until the repeat."""


def _import(places: Places, digest: str) -> None:
    SnapshotStore(places.work).import_(places.source, digest)


def _both(places: Places) -> None:
    _import(places, places.sd)
    _import(places, places.flux)


def _remove_and_collect(places: Places) -> None:
    store = SnapshotStore(places.work)
    if places.sd in store:
        store.remove(places.sd)
    store.gc()


def _damage(places: Places) -> None:
    _import(places, places.sd)
    victim = min((places.work / "components").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")


def _nothing(places: Places) -> set[str]:
    return set()


OPERATIONS: dict[str, Operation] = {
    "pack": Operation(
        prepare=lambda places: None,
        run=lambda places: pack(micro_sd(), places.work),
        whole=lambda places: {places.sd},
        kept=_nothing,
        repeats_max=REPEATED_PACKS_MAX,
    ),
    "import into nothing": Operation(
        prepare=lambda places: None,
        run=lambda places: _import(places, places.sd),
        whole=lambda places: {places.sd},
        kept=_nothing,
    ),
    "import beside another": Operation(
        prepare=lambda places: _import(places, places.flux),
        run=lambda places: _import(places, places.sd),
        whole=lambda places: {places.sd, places.flux},
        kept=lambda places: {places.flux},
    ),
    "import over damage": Operation(
        prepare=_damage,
        run=lambda places: _import(places, places.sd),
        whole=lambda places: {places.sd},
        kept=_nothing,
        damaged=True,
    ),
    "pull": Operation(
        prepare=lambda places: None,
        run=lambda places: pull(
            SnapshotStore(places.work), open_remote(places.source.as_uri()), places.sd
        ),
        whole=lambda places: {places.sd},
        kept=_nothing,
    ),
    "remove and gc": Operation(
        prepare=_both,
        run=_remove_and_collect,
        whole=lambda places: {places.flux},
        kept=lambda places: {places.flux},
    ),
}


@dataclass(slots=True)
class Result:
    steps: int = 0
    states: int = 0
    repeats: int = 0
    findings: list[str] = field(default_factory=list)


def check(name: str, folder: Path, seed: int, states_max: int | None = None) -> Result:
    """Runs an operation once, then tries what every power cut during it may have left.

    `states_max`: a sample of that many, chosen by the seed.
    """
    operation, random_ = OPERATIONS[name], random.Random(seed)
    places = _places(folder)
    operation.prepare(places)
    with recording(places.work) as recorded:
        operation.run(places)
    states = list(crash_states(recorded, random_))
    chosen = set(range(len(states)))
    if states_max is not None and len(states) > states_max:
        chosen = set(random_.sample(range(len(states)), states_max))
    result = Result(steps=len(recorded.steps))
    for index in sorted(chosen):
        cut, tree = states[index]
        limit = operation.repeats_max
        repeat = limit is None or index % max(len(states) // limit, 1) == 0
        result.states += 1
        result.repeats += repeat
        found = _try(operation, places, tree, repeat=repeat)
        if found is not None:
            after = recorded.steps[cut - 1] if cut else None
            done = None if after is None else (after.kind, after.path, after.target)
            result.findings.append(f"{name}, seed {seed}, state {index}, cut after {done}: {found}")
    return result


def _places(folder: Path) -> Places:
    source = SnapshotStore(folder / "source")
    sd, flux = pack(micro_sd(), source), pack(micro_flux(), source)
    (folder / "work").mkdir()
    return Places(folder / "work", source.root, sd, flux)


def _try(operation: Operation, places: Places, tree: Tree, *, repeat: bool) -> str | None:
    """What is wrong with one state, if anything is."""
    shutil.rmtree(places.work)
    restore(tree, places.work)
    try:
        found = _wrong(places, operation.kept(places), broken_may_be=operation.damaged)
        if found is not None:
            return f"found {found}"
        if not repeat:
            return None
        operation.run(places)
        if (found := _wrong(places, operation.whole(places))) is not None:
            return f"after a repeat, {found}"
        SnapshotStore(places.work).gc()
        if (found := _wrong(places, operation.whole(places))) is not None:
            return f"after a gc, {found}"
    except QuickthawError as error:
        return f"{error.reason}: {error.message}"
    return None


def _wrong(places: Places, wanted: set[str], *, broken_may_be: bool = False) -> str | None:
    """Every snapshot that shows up must be whole, bit by bit, and those wanted must show up."""
    store, source = SnapshotStore(places.work), SnapshotStore(places.source)
    there = set(store)
    if missing := wanted - there:
        return f"snapshot {min(missing)[:12]} is gone"
    if strange := there - {places.sd, places.flux}:
        return f"snapshot {min(strange)[:12]} is nobody's"
    for digest in there:
        report = verify(places.work, digest)
        if not report.intact and broken_may_be:
            continue
        if not report.intact:
            return f"snapshot {digest[:12]} shows up, but {report.findings[0].message}"
        for file in source.open(digest).manifest.files():
            if (store.root / file.path).read_bytes() != (source.root / file.path).read_bytes():
                return f"{file.path} verifies, but differs"
    return None
