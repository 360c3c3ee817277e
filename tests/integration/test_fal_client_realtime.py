"""The published fal_client's sockets, unchanged: tokens and WebSockets through CONNECT and TLS."""

from __future__ import annotations

from pathlib import Path

from quickthaw.cli.pointing import Place, variables
from support import fal_realtime_script
from support.applications import told_by
from support.fake_inference import ALICE_KEY, MODEL_ID
from support.gateway_rig import a_gateway


async def test_sockets_of_fals_client_work_unchanged_with_and_without_tokens(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path, with_tls=True) as rig:
        pointing = variables("fal", Place(rig.listening.public_url, ALICE_KEY, tmp_path / "tls"))
        told = await told_by(fal_realtime_script, MODEL_ID, pointing=pointing)
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
