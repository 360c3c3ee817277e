"""Packed tiny models, loaders for them, and ways to damage them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from quickthaw.snapshot import CpuDevice, Device, Loader, Slab, SnapshotStore
from quickthaw.snapshot.pack import pack
from support.tiny_models import tiny_flux, tiny_sd, tiny_sdxl

MIB = 1 << 20
BUILDERS: dict[str, Callable[[int], Any]] = {"sd": tiny_sd, "sdxl": tiny_sdxl, "flux": tiny_flux}
PROMPT = "a red circle above a blue square"


def draw(pipeline: Any, seed: int = 7) -> torch.Tensor:
    """One small picture, (1, 3, 32, 32), in a fixed number of steps."""
    extra = {"max_sequence_length": 16} if type(pipeline).__name__ == "FluxPipeline" else {}
    pipeline.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        # diffusers' Euler scheduler and numpy 2 disagree about this; nothing of ours.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        pictures: torch.Tensor = pipeline(
            PROMPT,
            height=32,
            width=32,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **extra,
        ).images
    return pictures


def fine_tune(seed: int) -> Any:
    """tiny_sd(0) with another UNet: text encoder and VAE are the same."""
    pipeline = tiny_sd(0)
    pipeline.unet.load_state_dict(tiny_sd(seed).unet.state_dict())
    return pipeline


def pack_all(root: Path) -> dict[str, str]:
    """A store of every family, seed 0, and a fine-tune of sd; digests by name."""
    store = SnapshotStore(root)
    digests = {name: pack(build(0), store) for name, build in BUILDERS.items()}
    digests["sd-tuned"] = pack(fine_tune(1), store)
    return digests


@contextmanager
def a_loader(
    store: SnapshotStore,
    *,
    vram_bytes: int = 64 * MIB,
    slab_bytes: int = 24 * MIB,
    staging_bytes: int = 8 * MIB,
    device: Device | None = None,
    readers: int = 2,
    **settings: Any,
) -> Iterator[Loader]:
    slab = Slab(slab_bytes, staging_bytes=staging_bytes, touch_threads=1)
    loader = Loader(store, device or CpuDevice(vram_bytes), slab, readers=readers, **settings)
    try:
        yield loader
    finally:
        loader.close()
        slab.close()


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0] ^ (1 << bit)
        file.seek(offset)
        file.write(bytes([byte]))


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, non-persistent ones too, under all of their names."""
    found = dict(module.named_parameters(remove_duplicate=False))
    return {**found, **dict(module.named_buffers(remove_duplicate=False))}
