"""The published fal_client's sockets, unchanged: tokens and WebSockets through CONNECT and TLS."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from quickthaw.cli.pointing import Place, variables
from support import fal_realtime_script
from support.fake_inference import ALICE_KEY, MODEL_ID
from support.gateway_rig import a_gateway
from support.patience import PATIENCE_SECONDS


async def test_sockets_of_fals_client_work_unchanged_with_and_without_tokens(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path, with_tls=True) as rig:
        pointing = variables("fal", Place(rig.listening.public_url, ALICE_KEY, tmp_path / "tls"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # beside the script lies a `platform`, which is no standard one
            fal_realtime_script.__file__,
            MODEL_ID,
            env={**os.environ, **pointing},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        told = json.loads(out)
    picture = len(b"picture 0")
    for use_jwt in (True, False):
        first, second, error, after = told[f"realtime jwt={use_jwt}"]
        assert first == ["a red circle", picture, "http://1", "a red circle"]
        assert second[0] == second[3] == "a blue square"
        assert error[0] == "INVALID_INPUT"
        assert "prompt" in error[1]
        assert after == ["after an error", picture]
        assert told[f"realtime_async jwt={use_jwt}"] == ["async", picture]
    assert told["ws_connect"] == told["ws_connect_async"] == "raw"
    assert told["ws_connect timings"] == "timings"
    assert told["stream"][0] == "data:image/jpeg;base64"
    assert told["stream"][-1].startswith("http://127.0.0.1")
    assert told["stream_async"] == 2
