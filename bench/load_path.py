"""How fast a model comes up, tier by tier, beside what the machine can do and what others do.

    python -m bench.load_path [--device cpu|cuda] [--size-gb 1] [--rounds 7] [--folder DIR]

A pipeline with SDXL's structure is made, packed, saved the diffusers way, and removed afterwards.
Every round runs every method once, in another order each time, so that a drift of the machine meets
all alike. "Ready" is a pipeline whose weights are on the device, in memory of its own; ours checks
every block it reads from disk, the others check nothing. Cold means that the page cache held
nothing of the files, which is looked at, not assumed. Floors move the same bytes and do nothing
else: `O_DIRECT` or `pread` into huge pages that were touched before, and plain copies.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench.floors import Floors, huge_page_fraction
from bench.page_cache import Files
from bench.support import RESULTS, record
from bench.synthetic import sdxl_like
from safetensors import safe_open
from safetensors.torch import load_file

from quickthaw.snapshot import CpuDevice, CudaDevice, Device, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.report import LoadReport

STAGING_BYTES = 64 << 20
SAMPLED_TENSORS = 24


@dataclass(slots=True)
class Samples:
    """One method's rounds."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Method:
    """`floor` names the method whose run in the same round this one is divided by."""

    name: str
    run: Callable[[], object]
    check: Callable[[Any], None]
    cold: bool
    floor: str | None


class Bench:
    def __init__(
        self, kind: str, size_bytes: int, folder: Path, readers: int, *, peers: bool
    ) -> None:
        self.peers = peers
        self.store = SnapshotStore(folder / "store")
        self.diffusers = folder / "diffusers"
        pipeline = sdxl_like(size_bytes)
        self.digest = pack(pipeline, self.store)
        if peers:
            pipeline.save_pretrained(self.diffusers)
        self.pipeline_class = type(pipeline)
        self.manifest = self.store.open(self.digest).manifest
        self.nbytes = self.manifest.weight_bytes
        parts = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
        self.tensors = sum(len(list(part.parameters())) for part in parts)
        unet = dict(pipeline.unet.named_parameters())
        names = sorted(unet)[:: max(1, len(unet) // SAMPLED_TENSORS)]
        self.samples = {name: unet[name].clone() for name in names}
        del pipeline, unet, parts
        gc.collect()
        self.ours = Files([self.store.component_path(p.digest) for p in self.manifest.components])
        self.theirs = Files(sorted(self.diffusers.rglob("*.safetensors")))
        room = round(self.nbytes * 1.05) + (64 << 20)
        self.device: Device = CudaDevice(0) if kind == "cuda" else CpuDevice(room)
        self.kind = kind
        self.slab = Slab(room + STAGING_BYTES, device=self.device, staging_bytes=STAGING_BYTES)
        self.loader = Loader(self.store, self.device, self.slab, readers=readers)
        self.loader.prepare(self.digest)
        self.floors = Floors(self.ours.paths, kind, readers)
        self.reports: dict[str, list[LoadReport]] = {}

    def methods(self) -> list[Method]:
        floors, nothing = self.floors, _nothing
        found = [
            Method("floor: O_DIRECT", floors.direct, nothing, cold=True, floor=None),
            Method("floor: page cache", floors.page_cache, nothing, cold=False, floor=None),
            Method("floor: to device", floors.to_device, nothing, cold=False, floor=None),
            self._ours("quickthaw, disk", Tier.DISK, cold=True, floor="floor: O_DIRECT"),
            self._ours("quickthaw, page cache", Tier.DISK, cold=False, floor="floor: page cache"),
            self._ours("quickthaw, pinned", Tier.PINNED, cold=False, floor="floor: to device"),
        ]
        return found + (self._peers() if self.peers else [])

    def _peers(self) -> list[Method]:
        found: list[Method] = []
        for cold, floor in ((True, "floor: O_DIRECT"), (False, "floor: page cache")):
            state = "disk" if cold else "page cache"
            for name, run, check in (
                ("safetensors load_file", self._load_file, self._check_files),
                ("safetensors pread", self._pread, self._check_files),
                ("diffusers from_pretrained", self._from_pretrained, self._check_pipeline),
            ):
                found.append(Method(f"{name}, {state}", run, check, cold, floor))
        return found

    def _ours(self, name: str, tier: Tier, *, cold: bool, floor: str) -> Method:
        reports = self.reports.setdefault(name, [])

        def run() -> Any:
            loaded = self.loader.load(self.digest, verify=True)
            if loaded.report.source is not tier:
                raise SystemExit(f"{name}: came from {loaded.report.source.value}")
            reports.append(loaded.report)
            return loaded

        def check(loaded: Any) -> None:
            self._check_pipeline(loaded.pipeline)
            loaded.release()

        return Method(name, run, check, cold, floor)

    def make_ready(self, method: Method) -> None:
        """Puts files and tiers into the state that the method starts from."""
        for part in self.manifest.components:
            self.loader.evict(part.digest, Tier.VRAM)
            if not method.name.endswith("pinned"):
                self.loader.evict(part.digest, Tier.PINNED)
            else:
                self.loader.promote(part.digest, Tier.PINNED, verify=False)
        files = self.theirs if method.name.startswith("diffusers") else self.ours
        if method.cold:
            files.drop()
        else:
            files.warm()
        gc.collect()

    def _load_file(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for path in self.ours.paths:
            tensors = load_file(path, device=self.kind)
            # On a CPU these are views of the mapped file: nothing has been read yet.
            found |= {k: v.clone() if self.kind == "cpu" else v for k, v in tensors.items()}
        self._wait()
        return found

    def _pread(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for path in self.ours.paths:
            with safe_open(path, "pt", device=self.kind, backend="pread") as file:
                names = list(file.keys())
                found |= {name: file.get_tensor(name) for name in names}
        self._wait()
        return found

    def _from_pretrained(self) -> Any:
        pipeline = self.pipeline_class.from_pretrained(self.diffusers, torch_dtype=torch.float16)
        if self.kind == "cpu":
            for part in pipeline.components.values():
                if isinstance(part, torch.nn.Module):
                    for tensor in part.parameters():
                        tensor.data = tensor.data.clone()  # as above
        pipeline.to(self.kind)
        self._wait()
        return pipeline

    def _wait(self) -> None:
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def _check_files(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, wanted in self.samples.items():
            if not torch.equal(tensors[name].cpu(), wanted):
                raise SystemExit(f"{name} is not what was packed")

    def _check_pipeline(self, pipeline: Any) -> None:
        self._check_files(dict(pipeline.unet.named_parameters()))

    def close(self) -> None:
        self.loader.close()
        self.slab.close()


def _nothing(_: object) -> None:
    pass


def measure(bench: Bench, rounds: int) -> dict[str, Samples]:
    """One more round than counted: the first warms code paths and is thrown away."""
    methods = bench.methods()
    found = {method.name: Samples() for method in methods}
    for number in range(rounds + 1):
        turn = number % len(methods)
        for method in methods[turn:] + methods[:turn]:
            bench.make_ready(method)
            cpu, began = time.process_time(), time.perf_counter()
            made = method.run()
            seconds = time.perf_counter() - began
            cpu_seconds = time.process_time() - cpu
            method.check(made)
            del made
            if number == 0:
                bench.reports.get(method.name, []).clear()
                continue
            found[method.name].seconds.append(seconds)
            found[method.name].cpu_seconds.append(cpu_seconds)
        print(f"round {number} of {rounds} done", file=sys.stderr)
    return found


def summary(bench: Bench, found: dict[str, Samples]) -> dict[str, object]:
    lines: dict[str, object] = {}
    gigabytes = bench.nbytes / 1e9
    for method in bench.methods():
        seconds = found[method.name].seconds
        line: dict[str, object] = {
            "seconds": _spread(seconds),
            "gigabytes_per_second": round(gigabytes / statistics.median(seconds), 3),
            "cpu_seconds_per_gigabyte": round(
                statistics.median(found[method.name].cpu_seconds) / gigabytes, 3
            ),
        }
        if method.floor is not None:
            floor = found[method.floor].seconds
            ratios = [b / a for a, b in zip(seconds, floor, strict=True)]
            line["share_of_floor"] = _spread(ratios)
        if reports := bench.reports.get(method.name):
            line["phases"] = _phases(reports)
        lines[method.name] = line
    return lines


def _phases(reports: list[LoadReport]) -> dict[str, float]:
    named = [
        {name: value for name, value in asdict(each).items() if name.endswith("_seconds")}
        for each in reports
    ]
    return {name: round(statistics.median(row[name] for row in named), 4) for name in named[0]}


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def table(lines: dict[str, Any]) -> str:
    rows = [
        f"{'method':34} {'s':>8} {'min':>7} {'max':>7} {'GB/s':>7} {'/floor':>7} {'CPU-s/GB':>9}"
    ]
    for name, line in lines.items():
        spread = line["seconds"]
        share = line["share_of_floor"]["median"] if "share_of_floor" in line else 1.0
        rows.append(
            f"{name:34} {spread['median']:8.3f} {spread['min']:7.3f} {spread['max']:7.3f} "
            f"{line['gigabytes_per_second']:7.2f} {share:7.2f} "
            f"{line['cpu_seconds_per_gigabyte']:9.3f}"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size-gb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where the files go; its disk is measured")
    parser.add_argument("--without-peers", action="store_true", help="ours and the floors only")
    parser.add_argument("--name", default="load_path", help="of the result")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument("--dry-run", action="store_true", help="print, but record nothing")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="quickthaw-bench-", dir=arguments.folder))
    try:
        size_bytes = int(arguments.size_gb * 1e9)
        peers = not arguments.without_peers
        bench = Bench(arguments.device, size_bytes, folder, arguments.readers, peers=peers)
        lines = summary(bench, measure(bench, arguments.rounds))
        parameters = {
            "device": arguments.device,
            "bytes": bench.nbytes,
            "tensors": bench.tensors,
            "rounds": arguments.rounds,
            "readers": arguments.readers,
            "verify": True,
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if arguments.device == "cuda" else None,
            "huge_page_fraction": round(huge_page_fraction(bench.slab.memory), 3),
        }
        bench.close()
    finally:
        shutil.rmtree(folder)
    if arguments.dry_run:
        print(json.dumps(parameters, indent=2))
    else:
        record(arguments.name, parameters, lines, arguments.results)
    print(table(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
