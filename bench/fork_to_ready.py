"""How soon a worker is ready: forked from a host, and started cold; what three of them weigh.

    python -m bench.fork_to_ready [--rounds 10] [--pinned-bytes 256MiB]

A real scheduler, the fleet that `quickthaw up` uses, and the bundled model prepared, as `up` has
it. Ready is when the scheduler has welcomed the worker and its device, slab and snapshot store are
there: the worker itself says how many milliseconds that took since its fork. A worker is killed
(-9) and made again each round, over the slab that it left. The cold figure is a worker with an
interpreter of its own, from exec to ready. Memory is the proportional set size, slabs left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.support import quantile, record

from quickthaw.cli.fleet import Exited, InstanceChange, Ready, WorkerSpec
from quickthaw.cli.fleet.local import LocalFleet
from quickthaw.cli.snapshots import bring_in
from quickthaw.cli.up.bundled import find_snapshot
from quickthaw.cli.up.process import Command, Process
from quickthaw.snapshot import SnapshotStore

WORKERS = 3


@dataclass(frozen=True, slots=True)
class Bench:
    folder: Path
    scheduler: str
    prepare: tuple[str, ...]
    pinned_bytes: str

    def spec(self, worker_id: str) -> WorkerSpec:
        return WorkerSpec(
            worker_id=worker_id,
            scheduler=self.scheduler,
            key_file=self.folder / "worker.key",
            data_dir=self.folder / worker_id,
            snapshot_store=self.folder / "snapshots",
            blob_store=str(self.folder / "blobs"),
            device="cpu",
            vram_bytes="1GiB",
            pinned_bytes=self.pinned_bytes,
            prepare=self.prepare,
            drain_seconds=1,
        )


@asynccontextmanager
async def a_bench(folder: Path, pinned_bytes: str) -> AsyncIterator[Bench]:
    bundled = find_snapshot()
    assert bundled is not None, "the bundled model is not here"
    snapshot = bring_in(bundled, None, SnapshotStore(folder / "snapshots"))
    arguments = ("quickthaw.scheduler", "--data-dir", str(folder), "--grpc", "127.0.0.1:0")
    scheduler = await Process.start(
        Command(
            "scheduler",
            (*arguments, "--metrics", "127.0.0.1:0"),
            "quickthaw-scheduler",
            folder / "scheduler.log",
            {},
        )
    )
    try:
        listening = await scheduler.ready()
        yield Bench(folder, listening["grpc"], (snapshot.digest,), pinned_bytes)
    finally:
        await scheduler.stop(grace_seconds=10)


async def the_ready(changes: AsyncIterator[InstanceChange]) -> Ready:
    change = await anext(changes)
    assert isinstance(change, Ready), change
    return change


def start_ms(log: Path) -> float:
    """What the newest ready line in a worker's log says."""
    return float(re.findall(r"start_ms=(\d+)", log.read_text())[-1])


def own_bytes(pid: int) -> int:
    """Memory that this process must answer for: shared pages by their share, without the slab."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return (kib["Pss"] - kib["Pss_Shmem"]) * 1024


def scheduled_ms(pid: int) -> tuple[float, float]:
    """Milliseconds that a process has run, and that its first thread stood in line for a core.

    What the machine had to do otherwise is in the second, which a quiet one has next to none of.
    """
    tasks = Path(f"/proc/{pid}/task")
    spent = {
        path.name: [int(word) / 1e6 for word in (path / "schedstat").read_text().split()[:2]]
        for path in tasks.iterdir()
    }
    return sum(ran for ran, _ in spent.values()), spent[str(pid)][1]


def parents(pids: list[int]) -> set[int]:
    stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] for pid in pids)
    return {int(stat.split()[1]) for stat in stats}


def children(pids: list[int]) -> list[int]:
    listed = (Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in pids)
    return [int(child) for line in listed for child in line.split()]


async def forked(bench: Bench, rounds: int) -> dict[str, object]:
    logs = bench.folder / "logs"
    fleet = LocalFleet(logs, gpus=0)
    changes = fleet.watch()
    again: list[float] = []
    killed_to_ready: list[float] = []
    spent: list[tuple[float, float]] = []
    began = time.perf_counter()
    await fleet.create(bench.spec("one"))
    ready = await the_ready(changes)
    first_seconds = time.perf_counter() - began
    first_ms = start_ms(logs / "one.log")
    for _ in range(rounds):
        began = time.perf_counter()
        os.kill(ready.pid, signal.SIGKILL)
        gone = await anext(changes)
        assert isinstance(gone, Exited), gone
        await fleet.create(bench.spec("one"))
        ready = await the_ready(changes)
        spent.append(scheduled_ms(ready.pid))
        killed_to_ready.append((time.perf_counter() - began) * 1000)
        again.append(start_ms(logs / "one.log"))
    pids = [ready.pid]
    for number in range(1, WORKERS):
        await fleet.create(bench.spec(f"one-{number}"))
        pids.append((await the_ready(changes)).pid)
    memory = sum(own_bytes(pid) for pid in (*pids, *parents(pids)))
    await fleet.close()
    return {
        "host_exec_to_first_ready_seconds": round(first_seconds, 2),
        "fork_to_ready_ms_first": first_ms,
        "fork_to_ready_ms_p50": quantile(again, 0.5),
        "fork_to_ready_ms_p90": quantile(again, 0.9),
        "fork_to_ready_ms": again,
        "cpu_ms_p50": round(quantile([ran for ran, _ in spent], 0.5), 1),
        "waited_for_a_core_ms_p50": round(quantile([waited for _, waited in spent], 0.5), 1),
        "killed_to_ready_ms_p50": round(quantile(killed_to_ready, 0.5), 1),
        "memory_bytes_host_and_3_workers": memory,
    }


async def cold(bench: Bench) -> dict[str, object]:
    """Three workers that share nothing, one after the other."""
    processes, seconds = [], []
    for number in range(WORKERS):
        spec = bench.spec(f"cold-{number}")
        command = Command(
            spec.worker_id,
            ("quickthaw.worker", *spec.arguments(spec.key_file)),
            "quickthaw-worker",
            bench.folder / f"{spec.worker_id}.log",
            {},
        )
        began = time.perf_counter()
        processes.append(await Process.start(command))
        await processes[-1].ready()
        seconds.append(time.perf_counter() - began)
    pids = [process.pid for process in processes]
    memory = sum(own_bytes(pid) for pid in (*pids, *children(pids)))
    await asyncio.gather(*(process.stop(10) for process in processes))
    return {
        "exec_to_ready_seconds": [round(each, 2) for each in seconds],
        "memory_bytes_3_workers": memory,
    }


async def measure(rounds: int, pinned_bytes: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        async with a_bench(Path(folder), pinned_bytes) as bench:
            return {"forked": await forked(bench, rounds), "cold": await cold(bench)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pinned-bytes", default="256MiB")
    given = parser.parse_args()
    results = asyncio.run(measure(given.rounds, given.pinned_bytes))
    record("fork_to_ready", vars(given), results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
