"""One process of `bench.options`: a first picture and some more, with or without compiled code.

    python -m bench.options_start STORE DIGEST HOW CACHE SIZE STEPS PICTURES OUTPUT

HOW is `eager` or `blocks` (code that `snapshot compile` made, in CACHE). The weights are resident
before the clock starts. Prints seconds as JSON; the first picture's numbers go to the file OUTPUT.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from quickthaw.snapshot import CpuDevice, LoadedModel, Loader, Slab, SnapshotStore
from quickthaw.worker.compiling import CompiledMetrics, CompiledMode, CompiledRuns, place_of
from quickthaw.worker.imports import import_families

PROMPT = "a red circle above a blue square"
MIB = 1 << 20


def pictures(loaded: LoadedModel, size: int, steps: int) -> torch.Tensor:
    pipeline = loaded.pipeline
    pipeline.set_progress_bar_config(disable=True)
    extra: dict[str, Any] = {}
    if loaded.manifest.family == "flux":
        extra["max_sequence_length"] = 128
    with torch.inference_mode():
        found: torch.Tensor = pipeline(
            PROMPT,
            height=size,
            width=size,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
            **extra,
        ).images
    return found


def main() -> None:
    store, digest, how, cache = SnapshotStore(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    size, steps, count = (int(text) for text in sys.argv[5:8])
    torch.set_num_threads(1)
    manifest = store.open(digest).manifest
    for _part in import_families((manifest.family,)):
        continue
    device = CpuDevice(manifest.weight_bytes + 256 * MIB)
    slab = Slab(64 * MIB, device=device, staging_bytes=32 * MIB)
    loader = Loader(store, device, slab, retain_pinned=False)
    loaded = loader.load(digest)
    runs = None
    if how == "blocks":
        place = place_of(Path(cache), torch.device("cpu"))
        mode, cpu = CompiledMode.USE, torch.device("cpu")
        runs = CompiledRuns(mode, place, cpu, store.root, CompiledMetrics())
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    first = None
    compiled = ""
    for _turn in range(count):
        cpu_began, began = time.process_time(), time.perf_counter()
        with runs.running(loaded) if runs else contextlib.nullcontext() as usage:
            found = pictures(loaded, size, steps)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
        first = found if first is None else first
        compiled = str(usage) if usage is not None else ""
    assert first is not None
    Path(sys.argv[8]).write_bytes(first.float().numpy().tobytes())
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "compiled": compiled}))
    loaded.release()
    loader.close()
    slab.close()


if __name__ == "__main__":
    main()
