"""The project of JavaScript clients in `tests/node`, run by Node."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "node"
_NODE = shutil.which("node")

needs_node = pytest.mark.skipif(
    _NODE is None or not (FOLDER / "node_modules").is_dir(),
    reason="Node 20 and the clients of tests/node are not installed; scripts/setup installs them",
)


async def run_script(name: str, *arguments: str, seconds: float = 120.0) -> dict[str, object]:
    """The JSON object that the script's last line is."""
    assert _NODE is not None
    process = await asyncio.create_subprocess_exec(
        *(_NODE, str(FOLDER / name), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(seconds):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told: dict[str, object] = json.loads(out.decode().strip().splitlines()[-1])
    return told
