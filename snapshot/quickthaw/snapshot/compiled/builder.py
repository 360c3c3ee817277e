"""Having code made, in a process of its own: the compiler is large, slow, and may crash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from quickthaw.snapshot.compiled.blocks import Missing
from quickthaw.snapshot.compiled.calls import to_json
from quickthaw.snapshot.compiled.scratch import scratch_folder, sweep
from quickthaw.snapshot.compiled.seal import private_folder
from quickthaw.snapshot.fields import JsonValue
from quickthaw.wire.errors import FailedPrecondition, Internal

_COMPILERS = ("g++", "c++", "clang++")


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """One block and form of call."""

    component: str
    block: str
    seconds: float
    problem: str
    """Why there is no code; empty if there is."""


@dataclass(frozen=True, slots=True)
class BuildPlace:
    """Where code is kept and what it is made for. Both ends of it must agree on all of this."""

    folder: Path
    key_file: Path
    device: str
    threads: int
    """Of torch, in the process that will run the code."""


def check_compiler() -> None:
    """Raises FailedPrecondition where there is no C++ compiler; code for a GPU needs it too."""
    if not any(map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS))):
        raise FailedPrecondition(
            "compiling needs a C++ compiler, and there is none on the path; install one (Debian: "
            "apt-get install g++), or name it in $CXX"
        )


def build_missing(
    place: BuildPlace,
    store: Path,
    digest: str,
    missing: Iterable[Missing],
    on_outcome: Callable[[BuildOutcome], None] = lambda _: None,
    on_start: Callable[[Callable[[], None]], None] = lambda _: None,
    *,
    timeout_seconds: float = 3600.0,
    niceness: int = 0,
) -> list[BuildOutcome]:
    """Makes what is missing for the snapshot `digest` of `store`, one after the other.

    `on_start` is given what ends it early, from any thread. A block that cannot be compiled is an
    outcome, not an error. Raises FailedPrecondition without a compiler and Internal if the process
    fails as a whole.
    """
    check_compiler()
    request: dict[str, JsonValue] = {
        "folder": str(place.folder),
        "key_file": str(place.key_file),
        "device": place.device,
        "threads": place.threads,
        "niceness": niceness,
        "store": str(store),
        "digest": digest,
        "blocks": [
            [each.component, each.block, dict(each.dtypes), to_json(each.form)] for each in missing
        ],
    }
    folder = private_folder(place.folder)
    sweep(folder)
    with scratch_folder(folder) as work:
        process = _compiling(work)
        try:
            on_start(process.kill)
            return _followed(process, json.dumps(request), on_outcome, timeout_seconds)
        finally:
            process.kill()
            process.wait()
            sweep(folder)


def _compiling(work: Path) -> subprocess.Popen[str]:
    """What the compiler works on is read back by it: in a folder that others may write to, it could
    be fed."""
    environment = {**os.environ, "TMPDIR": str(private_folder(work / "tmp"))}
    environment |= {
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TRITON_CACHE_DIR": str(work / "triton"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "quickthaw.snapshot.compiled"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _followed(
    process: subprocess.Popen[str],
    request: str,
    on_outcome: Callable[[BuildOutcome], None],
    timeout_seconds: float,
) -> list[BuildOutcome]:
    assert process.stdin is not None
    assert process.stdout is not None
    outcomes: list[BuildOutcome] = []
    watchdog = threading.Timer(timeout_seconds, process.kill)
    watchdog.start()
    try:
        # What is sent stays open: its end tells the process that nobody waits any more.
        process.stdin.write(request + "\n")
        process.stdin.flush()
        for line in process.stdout:
            outcomes.append(BuildOutcome(**json.loads(line)))
            on_outcome(outcomes[-1])
        status = process.wait()
    except BrokenPipeError:
        status = process.wait()
    finally:
        watchdog.cancel()
        process.stdin.close()
        process.stdout.close()
    if status != 0:
        raise Internal(
            f"the compiling process ended with status {status} after {len(outcomes)} blocks; its "
            "last words are on stderr"
        )
    return outcomes
