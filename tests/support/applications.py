"""Applications that know nothing of us: scripts of a published client, each in its own process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from support.patience import PATIENCE_SECONDS


async def told_by(script: ModuleType, *arguments: str, pointing: Mapping[str, str]) -> Any:
    """The JSON that it prints. `pointing`: variables of its environment, which bring it here."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # beside the script lies a `platform`, which is no standard one
        str(script.__file__),
        *arguments,
        env={**os.environ, **pointing},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    # Of fal's client, whose uploads may go another way when the first is refused.
    assert b"falling back" not in err, err.decode()
    return json.loads(out)
