"""Random LoRA files for the tiny pipelines, named as peft, diffusers and kohya name theirs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

Choose = Callable[[str, nn.Module], bool]


def attention(name: str, layer: nn.Module) -> bool:
    """What most LoRAs adapt."""
    ends = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
    return name.endswith(ends)


def everything(name: str, layer: nn.Module) -> bool:
    """Convolutions and embeddings' linears as well."""
    return isinstance(layer, nn.Linear | nn.Conv2d)


def adapted(module: nn.Module, choose: Choose) -> dict[str, nn.Module]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and choose(name, layer)
    }


def pair(layer: nn.Module, rank: int, strength: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random down and up weights that fit a layer."""
    if isinstance(layer, nn.Conv2d):
        down = torch.randn(rank, layer.in_channels, *layer.kernel_size)
        return down * strength, torch.randn(layer.out_channels, rank, 1, 1) * strength
    assert isinstance(layer, nn.Linear)
    down, up = torch.randn(rank, layer.in_features), torch.randn(layer.out_features, rank)
    return down * strength, up * strength


def lora(
    path: Path,
    pipeline: Any,
    components: Sequence[str] = ("unet",),
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float | None = None,
    choose: Choose = attention,
    naming: str = "peft",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a LoRA file; `naming` is peft or kohya, and only kohya's has an alpha."""
    tensors: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for component in components:
            for name, layer in adapted(getattr(pipeline, component), choose).items():
                down, up = pair(layer, rank)
                if naming == "peft":
                    tensors[f"{component}.{name}.lora_A.weight"] = down
                    tensors[f"{component}.{name}.lora_B.weight"] = up
                    continue
                prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[component]
                key = f"{prefix}_{name.replace('.', '_')}"
                tensors[f"{key}.lora_down.weight"] = down
                tensors[f"{key}.lora_up.weight"] = up
                tensors[f"{key}.alpha"] = torch.tensor(float(rank if alpha is None else alpha))
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
    return path


def with_peft(pipeline: Any, *paths: Path, scales: Sequence[float] = ()) -> Any:
    """The pipeline with the files loaded by diffusers itself, the first one first."""
    names = [f"file{index}" for index, _ in enumerate(paths)]
    with warnings.catch_warnings():
        # peft warns of a second adapter, and of alphas that diffusers names as it does not.
        warnings.simplefilter("ignore")
        for name, path in zip(names, paths, strict=True):
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True
            )
    if scales or len(paths) > 1:
        pipeline.set_adapters(names, list(scales) or [1.0] * len(names))
    return pipeline
