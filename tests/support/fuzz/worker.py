"""One process of a campaign: makes, tries and forgets mutants, and says what it is at.

    python -m support.fuzz.worker FOLDER SEED FIRST STOP STEP MEMORY_MB WALL_SECONDS

A process of its own, so that a crash or a hang ends here and is seen by the campaign.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from quickthaw.snapshot import SnapshotStore
from support.fuzz import of_component, of_disk, of_manifest, of_processor
from support.fuzz.draft import Draft, Original, write
from support.fuzz.trial import Outcome, Trials
from support.fuzz.watch import Watch, address_space_bytes

MIB = 1 << 20
Mutation = Callable[[random.Random, Draft, str], str]
KINDS: tuple[tuple[int, tuple[tuple[int, Mutation], ...]], ...] = (
    (40, of_manifest.MUTATIONS),
    (30, of_component.MUTATIONS),
    (15, of_processor.MUTATIONS),
    (15, of_disk.MUTATIONS),
)


WEIGHTS = (4, 2, 2, 1, 1)
"""How often each original is broken: plain ones most, then those of the manifest's version 2."""


def mutate(random_: random.Random, draft: Draft, canary: str, index: int) -> list[str]:
    """One mutation mostly, sometimes several, since two errors may meet."""
    done: list[str] = []
    for _ in range(random_.choices((1, 2, 3, 5), (75, 15, 7, 3))[0]):
        kind = random_.choices([k for _, k in KINDS], [weight for weight, _ in KINDS])[0]
        mutation = random_.choices([m for _, m in kind], [weight for weight, _ in kind])[0]
        try:
            if kind is of_disk.MUTATIONS and not draft.wreck:
                _salt(draft, index)
            done.append(mutation(random_, draft, canary))
        except Exception:
            done.append("nothing")  # an earlier mutation took away what this one changes
    return done


def _salt(draft: Draft, index: int) -> None:
    """Makes all digests new, so that no cache of an earlier trial hides what is wrong now."""
    layers = [layer for each in draft.layers.values() for layer in each]
    for part in [*draft.components.values(), *layers]:
        part.header.setdefault("__metadata__", {})["salt"] = str(index)
    for key in draft.blobs:
        draft.blobs[key] += b"\n" + b" " * (index % 4096)


def one(
    trials: Trials, originals: list[Original], seed: int, index: int, canary: str
) -> tuple[list[str], Outcome]:
    """The mutant of that seed and index, always the same."""
    random_ = random.Random(f"{seed}:{index}")
    draft = random_.choices(originals, WEIGHTS)[0].draft()
    done = mutate(random_, draft, canary, index)
    trials.clean()
    try:
        files, contents = write(draft, trials.root)
    except Exception as error:  # several mutations may not go together
        return done, Outcome(result=f"not made: {type(error).__name__}")
    return done, trials.run(files, contents, random_)


def main(folder: Path, seed: int, indices: range, memory_mb: int, wall_seconds: int) -> None:
    originals_folder, canary = folder.parent / "originals", folder.parent / "canary"
    store = SnapshotStore(originals_folder)
    originals = [Original(store, digest) for digest in _digests(originals_folder)]
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder / "scratch")
    os.chdir(folder)
    _quiet()
    trials = Trials(folder, Watch(folder, canary))
    for original in originals:  # imports and caches, so that the limit counts mutants alone
        files, contents = write(original.draft(), trials.root)
        outcome = trials.run(files, contents, random.Random(0))
        assert not outcome.findings, outcome
        assert outcome.result == "accepted", outcome
    limit = address_space_bytes() + memory_mb * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with (
        (folder / "trace").open("w") as trace,
        (folder / "outcomes").open("a", buffering=1) as told,
        (folder / "position").open("w") as position,
    ):
        for index in indices:
            os.pwrite(position.fileno(), f"{index:12}".encode(), 0)
            faulthandler.dump_traceback_later(wall_seconds, exit=True, file=trace)
            began = time.process_time()
            done, outcome = one(trials, originals, seed, index, str(canary))
            seconds = round(time.process_time() - began, 4)
            faulthandler.cancel_dump_traceback_later()
            line = (index, done, outcome.stage, outcome.result, outcome.findings, seconds)
            told.write(json.dumps(line) + "\n")
        os.pwrite(position.fileno(), b"%12s" % b"done", 0)
    trials.clean()


def _digests(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "digests.json").read_text())
    return found


def _quiet() -> None:
    """Libraries advise and warn about what is broken on purpose."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore")
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    place, *numbers = sys.argv[1:]
    which, first, stop, step, memory, wall = map(int, numbers)
    main(Path(place), which, range(first, stop, step), memory, wall)
