"""A campaign: many mutants in a few processes, every crash and hang seen, all outcomes counted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.fuzz.micro import micro_flux, micro_sd
from support.loras import lora

_SOURCES = ("tests", "proto", "snapshot", "worker", "scheduler", "gateway", "client", "cli")
ROOTS = os.pathsep.join(str(Path(__file__).parents[3] / each) for each in _SOURCES)
"""Where processes that tests start find the code."""
DEATHS_MAX = 50
"""Of worker processes, before the campaign gives up."""
_POLL_SECONDS = 0.2


@dataclass(slots=True)
class Result:
    """`outcomes` by error and problem, `stages` by the last operation that succeeded."""

    seed: int
    mutants: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    slowest: tuple[float, int, list[str]] = (0.0, 0, [])
    outcomes: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


class _Worker:
    def __init__(self, folder: Path, seed: int, indices: range, limits: tuple[int, int]) -> None:
        self._folder, self._seed, self._limits = folder, seed, limits
        self.indices = indices
        folder.mkdir()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        left = self.indices
        numbers = (self._seed, left.start, left.stop, left.step, *self._limits)
        environment = {
            **os.environ,
            "PYTHONPATH": ROOTS,
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        (self._folder / "position").write_text("starting")
        with (self._folder / "stderr").open("ab") as stderr:
            command = [sys.executable, "-m", "support.fuzz.worker", str(self._folder)]
            return subprocess.Popen(
                [*command, *map(str, numbers)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    def position(self) -> str:
        return (self._folder / "position").read_text().strip()

    def after_death(self) -> str | None:
        """What it died of, if it did before its end; then the next one goes on behind."""
        code, position = self.process.returncode, self.position()
        if position == "done" and code == 0:
            return None
        trace = (self._folder / "trace").read_text() if (self._folder / "trace").exists() else ""
        said = (self._folder / "stderr").read_bytes()[-3000:].decode(errors="replace")
        if not position.isdigit():
            raise RuntimeError(f"a worker did not start (exit code {code}): {said}")
        index = int(position)
        what = f"hang: {trace[-1500:]}" if "Timeout" in trace else f"exit code {code}: {said}"
        self.indices = range(index + self.indices.step, self.indices.stop, self.indices.step)
        if self.indices:
            self.process = self._start()
        return f"mutant {index}: {what}"

    def outcomes(self) -> Iterator[tuple[int, list[str], str, str, list[str], float]]:
        if (path := self._folder / "outcomes").exists():
            for line in path.read_text().splitlines():
                index, mutations, stage, result, findings, seconds = json.loads(line)
                yield index, mutations, stage, result, findings, seconds

    def count(self) -> int:
        position = self.position()
        return int(position) if position.isdigit() else 0


def run(
    seed: int,
    indices: range,
    *,
    workers: int,
    memory_mb: int = 512,
    wall_seconds: int = 30,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Result:
    """Tries the mutants of `seed` with these indices. Prints nothing; leaves nothing behind."""
    began, deaths = time.monotonic(), 0
    result = Result(seed)
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="quickthaw-fuzz-", dir=place))
    started: list[_Worker] = []
    try:
        _prepare(folder)
        for number in range(workers):
            own = range(indices.start + number * indices.step, indices.stop, indices.step * workers)
            started.append(_Worker(folder / str(number), seed, own, (memory_mb, wall_seconds)))
        running = list(started)
        while running and deaths < DEATHS_MAX:
            time.sleep(_POLL_SECONDS)
            on_progress(sum(worker.count() for worker in running) // max(len(running), 1))
            for worker in [each for each in running if each.process.poll() is not None]:
                if (death := worker.after_death()) is not None:
                    result.findings.append(death)
                    deaths += 1
                if worker.process.poll() is not None:
                    running.remove(worker)
        for worker in started:
            for index, mutations, stage, outcome, findings, seconds in worker.outcomes():
                result.mutants += 1
                result.cpu_seconds += seconds
                result.slowest = max(result.slowest, (seconds, index, mutations))
                result.mutations.update(mutations)
                result.stages[stage] += 1
                result.outcomes[outcome] += 1
                result.findings += [f"mutant {index} {mutations}: {each}" for each in findings]
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    result.seconds = time.monotonic() - began
    return result


def _fine_tune() -> Any:
    """Some layers of the denoiser are others: it is packed as a delta."""
    pipeline, other = micro_sd(), micro_sd(seed=1)
    pipeline.unet.conv_in = other.unet.conv_in
    pipeline.unet.conv_out = other.unet.conv_out
    return pipeline


def _prepare(folder: Path) -> None:
    """The snapshots to break, and the folder that nothing may touch."""
    store = SnapshotStore(folder / "originals")
    base = pack(micro_sd(), store)
    weights = lora(folder / "lora.safetensors", micro_sd(), rank=2)
    digests = [
        base,
        pack(micro_flux(), store),
        pack(_fine_tune(), store, base=base),
        pack(weights, store, base=base),
        pack(micro_sd(), store, quantize="int8"),
    ]
    (store.root / "digests.json").write_text(json.dumps(digests))
    canary = folder / "canary"
    canary.mkdir()
    (canary / "secret.json").write_text('{"secret": 1}')
    (canary / "tokenizer.json").write_text("{}")
