"""Many LoRAs on one base: what loading one, and switching between them, costs.

The model has SDXL's structure and tensor count at a smaller width; each LoRA adapts all 560 layers
of its UNet's attention. Switching is timed as a worker does it before and after each run. Every
output that is compared has to be equal to the bit: with an adapter on, to that of a fresh
`load_lora_weights` of the same file by diffusers; with none, to the base's before it had any.

A request may bring a LoRA of its own: `of_requests_ms` is what its load takes longer when a worker
reads the file for the first time, and when it has kept it.

python -m bench.adapters [--loras 50] [--rank 16] [--size-gb 0.3]
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench.support import quantile, record
from bench.synthetic import sdxl_like
from safetensors.torch import save_file

from quickthaw.snapshot import CpuDevice, LoadedModel, Loader, Slab, SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.worker.adapters import Adapters
from quickthaw.worker.inputs import LoraInput

SWITCH_MS_MAX = 10.0
REQUESTED_MAX = 10
"""LoRAs that are read as those of requests."""
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_LATENT = 8


def write_lora(unet: Any, path: Path, rank: int, seed: int) -> int:
    """A random LoRA of every attention layer; returns how many there are."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    layers = [(name, layer) for name, layer in unet.named_modules() if name.endswith(_ATTENTION)]
    for name, layer in layers:
        shapes = {"lora_A": (rank, layer.in_features), "lora_B": (layer.out_features, rank)}
        for part, shape in shapes.items():
            noise = torch.randn(shape, generator=generator) * 0.05
            tensors[f"unet.{name}.{part}.weight"] = noise.to(torch.float16)
    save_file(tensors, path)
    return len(layers)


def forward(unet: Any) -> torch.Tensor:
    """One denoising step's prediction on a small latent."""
    generator = torch.Generator().manual_seed(1)
    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim
    pooled -= 6 * unet.config.addition_time_embed_dim

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(torch.float16)

    with torch.inference_mode():
        predicted: torch.Tensor = unet(
            noise(1, 4, _LATENT, _LATENT),
            torch.tensor([500]),
            encoder_hidden_states=noise(1, 77, width),
            added_cond_kwargs={
                "text_embeds": noise(1, pooled),
                "time_ids": torch.ones(1, 6, dtype=torch.float16),
            },
        ).sample
    return predicted


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def switched(models: list[LoadedModel], rounds: int) -> list[list[float]]:
    """Milliseconds to put an adapter on and take it off again: of each model, round by round."""
    found: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, times in zip(models, found, strict=True):
            began = time.perf_counter()
            with model.adapted():
                pass
            times.append((time.perf_counter() - began) * 1e3)
    return found


def with_diffusers(pipeline: Any, path: Path) -> None:
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)


def peft_times(pipeline: Any, paths: list[Path]) -> dict[str, float]:
    """What diffusers and peft take for the same, on a pipeline of their own."""
    first, second = paths[0], paths[1]
    times = {"load_ms": seconds(lambda: with_diffusers(pipeline, first)) * 1e3}
    times["second_load_ms"] = seconds(lambda: with_diffusers(pipeline, second)) * 1e3
    times["set_adapters_ms"] = seconds(lambda: pipeline.set_adapters(first.stem)) * 1e3
    times["disable_ms"] = seconds(pipeline.disable_lora) * 1e3
    return times


def forward_times(original: Any, tuned: LoadedModel, peft: Any, repeats: int) -> dict[str, float]:
    """Medians of alternating forwards: a pipeline that never had an adapter, ours off and on, and
    peft's with the same adapter. Each follows one of its own kind, which warms the caches."""
    unet = tuned.pipeline.unet
    times: dict[str, list[float]] = {}

    def timed(name: str, module: Any) -> None:
        forward(module)
        times.setdefault(name, []).append(seconds(lambda: forward(module)))

    for _ in range(repeats):
        timed("never", original.unet)
        timed("off", unet)
        with tuned.adapted():
            timed("on", unet)
        peft.enable_lora()
        timed("peft_on", peft.unet)
        peft.disable_lora()
        timed("peft_off", peft.unet)
    return {name: statistics.median(each) * 1e3 for name, each in times.items()}


def of_requests(
    plain: LoadedModel, store: SnapshotStore, originals: Any, paths: list[Path], folder: Path
) -> dict[str, object]:
    """What a worker takes to read LoRAs that come with requests. Raises unless their output is
    diffusers' own."""

    def read_blob(key: str, path: Path, bytes_max: int) -> str:
        content = paths[int(key.partition("/")[2])].read_bytes()
        path.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    adapters = Adapters(store, folder / "brought", read_blob=read_blob)
    times: dict[str, list[float]] = {"first": [], "again": []}
    for number in range(min(len(paths), REQUESTED_MAX)):
        named = LoraInput(f"blob:loras/{number:043d}", 1.0)
        for name, each in times.items():
            began = time.perf_counter()
            adapters.bring(name, plain, [named])
            each.append((time.perf_counter() - began) * 1e3)
    two = [LoraInput(f"blob:loras/{number:043d}", scale) for number, scale in ((0, 0.7), (1, -1.2))]
    adapters.bring("two", plain, two)
    fresh = copy.deepcopy(originals)
    for path in paths[:2]:
        with_diffusers(fresh, path)
    fresh.set_adapters([path.stem for path in paths[:2]], [each.scale for each in two])
    with plain.adapted(more=adapters.take("two")):
        if not torch.equal(forward(plain.pipeline.unet), forward(fresh.unet)):
            raise AssertionError("two LoRAs of a request differ from diffusers' own")
    return {
        **{name: spread(each) for name, each in times.items()},
        "kept_bytes": adapters.kept_bytes,
        "two_with_scales_bit_identical_to_diffusers": True,
    }


def check(models: list[LoadedModel], originals: Any, paths: list[Path], expected: Any) -> None:
    """Raises unless each output is the one that diffusers gives, and the base's is the base's."""
    for model, path in zip(models, paths, strict=True):
        fresh = copy.deepcopy(originals)
        with_diffusers(fresh, path)
        with model.adapted():
            if not torch.equal(forward(model.pipeline.unet), forward(fresh.unet)):
                raise AssertionError(f"{path.name}: the output differs from diffusers' own")
        if not torch.equal(forward(model.pipeline.unet), expected):
            raise AssertionError("the base's output changed")


def measure(settings: argparse.Namespace, folder: Path) -> dict[str, object]:
    pipeline = sdxl_like(int(settings.size_gb * 1e9))
    store = SnapshotStore(folder / "store")
    base = pack(pipeline, store)
    paths = [folder / f"lora{number:02}.safetensors" for number in range(settings.loras)]
    layers = {write_lora(pipeline.unet, path, settings.rank, n) for n, path in enumerate(paths)}
    pack_seconds: list[float] = []
    digests: list[str] = []
    for path in paths:
        began = time.perf_counter()
        digests.append(pack(path, store, base=base))
        pack_seconds.append(time.perf_counter() - began)
    weights = store.open(base).manifest.weight_bytes
    adapter_bytes = store.open(digests[0]).manifest.adapters[0].data_bytes
    room = 2 * weights + 2 * len(paths) * adapter_bytes + (256 << 20)
    slab = Slab(room, staging_bytes=64 << 20)
    loader = Loader(store, CpuDevice(room), slab)
    plain = loader.load(base)
    expected = forward(plain.pipeline.unet)
    loaded: list[LoadedModel] = []
    load_ms: list[float] = []
    for digest in digests:
        began = time.perf_counter()
        loaded.append(loader.load(digest))
        load_ms.append((time.perf_counter() - began) * 1e3)
    read = {model.report.read_bytes for model in loaded}
    if read != {adapter_bytes}:
        raise AssertionError(f"{read} bytes were read for adapters of {adapter_bytes}")
    switch_ms = switched(loaded, rounds=settings.rounds)
    # Medians: a thread may be set aside for longer than a switch takes.
    if (slowest := max(map(statistics.median, switch_ms))) > SWITCH_MS_MAX:
        raise AssertionError(f"switching took {slowest:.1f} ms")
    check(loaded[: settings.checked], pipeline, paths[: settings.checked], expected)
    requested = of_requests(plain, store, pipeline, paths, folder)
    peft = copy.deepcopy(pipeline)
    peers = peft_times(peft, paths)
    peft.delete_adapters(paths[1].stem)
    forward_ms = forward_times(pipeline, loaded[0], peft, settings.repeats)
    if not torch.equal(forward(plain.pipeline.unet), expected):
        raise AssertionError("the base's output changed")
    for model in (plain, *loaded):
        model.release()
    loader.close()
    slab.close()
    return {
        "base_bytes": weights,
        "adapter_bytes": adapter_bytes,
        "adapted_layers": min(layers),
        "loras": len(paths),
        "bit_identical_to_diffusers": settings.checked,
        "base_bit_identical": True,
        "pack_seconds": spread(pack_seconds),
        "load_ms": spread(load_ms),
        "of_requests_ms": requested,
        "switch_on_and_off_ms": spread([each for times in switch_ms for each in times]),
        "forward_ms": forward_ms,
        "diffusers_and_peft": peers,
    }


def spread(values: list[float]) -> dict[str, float]:
    return {
        "p50": statistics.median(values),
        "p99": quantile(values, 0.99),
        "max": max(values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loras", type=int, default=50)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--size-gb", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=20, help="switches of each LoRA")
    parser.add_argument("--checked", type=int, default=3, help="LoRAs compared with diffusers")
    parser.add_argument("--repeats", type=int, default=7, help="forwards of each kind")
    settings = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # peft's, of a second adapter on its own pipeline
        results = measure(settings, Path(folder))
    record("adapters", vars(settings), results)


if __name__ == "__main__":
    main()
