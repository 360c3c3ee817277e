"""What loads take of the host, and that they give it back. With a GPU: `bench.load_cycles`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.fuzz.campaign import ROOTS
from support.fuzz.micro import micro_sd
from support.host_memory import MIB, SLACK_BYTES, Levels, cycles
from support.snapshots import a_loader

CYCLES = 80
WARM_UP = 24


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By kind of load. The model has 200 MiB, three times what a load may need beside."""
    root = tmp_path_factory.mktemp("large")
    digest = pack(micro_sd(words=6 * MIB), SnapshotStore(root))
    done = subprocess.run(
        [sys.executable, "-m", "support.host_memory", str(root), digest],
        env={**os.environ, "PYTHONPATH": ROOTS, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(300)  # a process of its own imports all libraries first
@pytest.mark.parametrize(
    "kind", ["resident-cold", "resident-warm", "streaming-cold", "streaming-warm"]
)
def test_a_load_needs_no_more_host_memory_than_its_slab_and_64_mib(
    taken: dict[str, Any], kind: str
) -> None:
    took = taken[kind]
    assert took["nbytes"] > 3 * SLACK_BYTES
    # The slab was there before, and on a CPU it is where the weights stay. What finds no room in it
    # goes to memory of the device, which on a CPU is the host's.
    device = took["nbytes"] if kind.startswith("streaming") else 0
    assert took["grown_bytes"] <= device + SLACK_BYTES


def test_load_and_evict_leave_memory_descriptors_threads_and_objects_where_they_were(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    levels: dict[int, Levels] = {}

    def on_cycle(index: int) -> None:
        if index in (WARM_UP, CYCLES):
            levels[index] = Levels.now()

    with a_loader(store) as loader:
        cycles(loader, list(digests.values()), CYCLES, on_cycle)
    before, after = levels[WARM_UP], levels[CYCLES]
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads
    assert after.modules <= before.modules
    assert after.tensors <= before.tensors
    assert after.private_bytes - before.private_bytes < 8 * MIB
