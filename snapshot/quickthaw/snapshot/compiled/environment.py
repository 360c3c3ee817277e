"""Where compiled code may run: on the very machine and libraries it was made for."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from quickthaw.snapshot.fields import JsonValue

_OWN = Path(__file__).parent
_OWN_CODE = (
    *(_OWN / name for name in ("build.py", "calls.py", "export.py", "sizes.py")),
    _OWN.parent / "quantized.py",
)
"""Ours that ends up in the code, or decides what does; its version alone would not tell."""


def environment(device: torch.device) -> Mapping[str, JsonValue]:
    """Everything outside of the model that compiled code depends on, as JSON.

    The number of threads is part of it: loops on a CPU are compiled for one.
    """
    found: dict[str, JsonValue] = {
        "code": _own_code(),
        "torch": f"{torch.__version__} {torch.version.git_version}",
        "diffusers": metadata.version("diffusers"),
        "transformers": metadata.version("transformers"),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "capability": [*torch.cuda.get_device_capability(device)],
            "cuda": torch.version.cuda,
        }
    return found


def key_of(document: Mapping[str, JsonValue]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@functools.cache
def _own_code() -> str:
    whole = hashlib.sha256()
    for path in _OWN_CODE:
        whole.update(path.read_bytes())
    return whole.hexdigest()


@functools.cache
def _cpu() -> str:
    """Model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "CPU part", "Features")
    first = {line.split(":")[0].strip(): line for line in reversed(lines) if ":" in line}
    told = "\n".join(first[name] for name in wanted if name in first)
    return hashlib.sha256(told.encode()).hexdigest()
