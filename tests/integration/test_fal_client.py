"""The published fal_client, unchanged, brought here by environment variables alone."""

from __future__ import annotations

from pathlib import Path

from quickthaw.cli.pointing import Place, variables
from support import fal_script
from support.applications import told_by
from support.fake_inference import ALICE_KEY, MODEL_ID
from support.gateway_rig import a_gateway


async def test_an_application_of_fals_client_works_unchanged(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_tls=True) as rig:
        pointing = variables("fal", Place(rig.listening.public_url, ALICE_KEY, tmp_path / "tls"))
        told = await told_by(fal_script, MODEL_ID, pointing=pointing)
    for call in ("run", "run_async", "result", "subscribe"):
        assert told[call]["images"][0]["url"].startswith(rig.listening.public_url), call
        assert told[call]["seed"] == 7
    assert told["events"][-1] == "Completed"
    assert told["status"] == "Completed"
    assert told["updates"][-1] == "Completed"
    assert told["stream"][-1]["images"]
    assert told["error"][0] == 422
