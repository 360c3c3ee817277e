"""The published @fal-ai/client on Node: its realtime socket, with tokens, and its streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fake_inference import ALICE_KEY, MODEL_ID
from support.gateway_rig import a_gateway
from support.node import needs_node, run_script


@needs_node
async def test_sockets_and_streams_of_fals_javascript_client_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Node 20 has no WebSocket without it; later ones take it and have one anyway.
    monkeypatch.setenv("NODE_OPTIONS", "--experimental-websocket")
    async with a_gateway(tmp_path) as rig:
        base = rig.listening.public_url
        told = await run_script("realtime.mjs", base, ALICE_KEY, MODEL_ID)
    picture = len(b"picture 0")
    assert told["results"] == [["one", picture, "mine-one"], ["two", picture, "mine-two"]]
    # One error, and none for closing.
    assert told["errors"] == [[400, "INVALID_INPUT"]]
    assert told["stream"] == ["data:image/jpeg;base64", f"{base}/files/"[:22]]
    assert told["done"] == "a red circle"
    assert told["subscribed"] == [1, "COMPLETED"]
