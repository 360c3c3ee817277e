"""The published @fal-ai/client on Node, with its documented options only."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, cast

from PIL import Image

from support.fake_inference import ALICE_KEY, MODEL_ID
from support.gateway_rig import a_gateway
from support.node import needs_node, run_script


@needs_node
async def test_files_and_calls_of_fals_javascript_client_come_here_by_the_proxy(
    tmp_path: Path,
) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(picture, "PNG")
    async with a_gateway(tmp_path) as rig:
        base = rig.listening.public_url
        encoded = base64.b64encode(picture.getvalue()).decode()
        told: dict[str, Any] = await run_script("files.mjs", base, ALICE_KEY, MODEL_ID, encoded)
        for url, content, kind in [
            (told["upload"], b"some bytes", "text/plain"),
            (told["named"], picture.getvalue(), "image/png"),
            (cast("list[str]", told["transformed"]["a"])[0], picture.getvalue(), "image/png"),
        ]:
            answer = await rig.nobody.get(url)
            assert (answer.content, answer.headers["content-type"]) == (content, kind)
        assert (await rig.nobody.get(told["kept"])).status_code == 403
        assert (await rig.http.get(told["kept"])).content == b"some bytes"
        large = await rig.nobody.head(told["large"])
        assert large.headers["content-length"] == str(91 * 1024 * 1024)
    assert told["run"]["urls"][0].startswith(base)
    assert told["run"]["requestId"]
    assert told["over"] == 1
    assert told["subscribe"]["images"] == 1
    assert told["subscribe"]["updates"][-1] == "COMPLETED"
    assert (told["status"], told["result"]) == ("COMPLETED", 1)
    assert told["keptFrom"]["status"] == 400
    assert "initial_acl" in told["keptFrom"]["detail"]
    assert told["error"] == {"status": 422, "type": "file_download_error", "requestId": True}
