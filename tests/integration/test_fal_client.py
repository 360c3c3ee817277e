"""The published fal_client, unchanged, brought here by environment variables alone."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from quickthaw.cli.pointing import Place, variables
from support import fal_script
from support.fake_inference import ALICE_KEY, MODEL_ID
from support.gateway_rig import a_gateway
from support.patience import PATIENCE_SECONDS


async def test_an_application_of_fals_client_works_unchanged(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_tls=True) as rig:
        pointing = variables("fal", Place(rig.listening.public_url, ALICE_KEY, tmp_path / "tls"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            fal_script.__file__,
            MODEL_ID,
            env={**os.environ, **pointing},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        told = json.loads(out)
    for call in ("run", "run_async", "result", "subscribe"):
        assert told[call]["images"][0]["url"].startswith(rig.listening.public_url), call
        assert told[call]["seed"] == 7
    assert told["events"][-1] == "Completed"
    assert told["status"] == "Completed"
    assert told["updates"][-1] == "Completed"
    assert told["stream"][-1]["images"]
    assert told["error"][0] == 422
