"""Which GPUs this process may use, found without loading a tensor library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def visible_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """How many: what CUDA_VISIBLE_DEVICES names, at most the device files that there are."""
    present = sum(1 for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    names = [name.strip() for name in chosen.split(",")]
    # CUDA stops at the first entry that it does not know; -1 is the usual way to say none.
    count = next((i for i, name in enumerate(names) if not name or name == "-1"), len(names))
    return min(count, present)
