"""A thousand loads and evictions: what a process holds must stay where it was.

    python -m bench.load_cycles [--cycles 1000] [--device cpu|cuda]

Tiny models of every family and a fine-tune, loaded and evicted in turn, from disk and from pinned
memory by turns. Levels are taken when everything has been loaded a few times, and at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from bench.support import RESULTS, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from quickthaw.snapshot import CpuDevice, CudaDevice, Device, Loader, Slab, SnapshotStore
from support.host_memory import MIB, Levels, cycles
from support.snapshots import pack_all

WARM_UP = 100
GROWTH_BYTES_MAX = 16 * MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    given = parser.parse_args()
    device: Device = CpuDevice(64 * MIB) if given.device == "cpu" else CudaDevice()
    gpu = torch.cuda.get_device_name() if given.device == "cuda" else None
    levels: dict[int, Levels] = {}
    vram: dict[int, int] = {}

    def on_cycle(index: int) -> None:
        if index == WARM_UP or index % max(given.cycles // 10, 1) == 0:
            levels[index], vram[index] = Levels.now(), device.free_bytes
            print(index, levels[index], file=sys.stderr)

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="quickthaw-cycles-") as folder:
        digests = pack_all(Path(folder))
        slab = Slab(24 * MIB, device=device, staging_bytes=8 * MIB, touch_threads=1)
        loader = Loader(SnapshotStore(folder), device, slab, readers=2)
        cycles(loader, list(digests.values()), given.cycles, on_cycle)
        loader.close()
        slab.close()
    before, after = levels[WARM_UP], levels[max(levels)]
    grown = after.private_bytes - before.private_bytes
    steady = (
        grown <= GROWTH_BYTES_MAX
        and vram[max(vram)] == vram[WARM_UP]
        and (after.descriptors, after.threads) <= (before.descriptors, before.threads)
        and (after.modules, after.tensors) <= (before.modules, before.tensors)
    )
    record(
        "load_cycles" if gpu is None else "load_cycles_gpu",
        {"cycles": given.cycles, "device": given.device, "gpu": gpu},
        {
            "steady": steady,
            "grown_bytes": grown,
            "levels": {str(index): asdict(each) for index, each in levels.items()},
            "device_free_bytes": {str(index): each for index, each in vram.items()},
        },
        given.results,
        module="load_cycles",
    )
    return 0 if steady else 1


if __name__ == "__main__":
    sys.exit(main())
