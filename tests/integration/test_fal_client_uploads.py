"""Uploads of the published fal_client, unchanged, brought here by environment variables alone."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from quickthaw.cli.pointing import Place, variables
from support import fal_upload_script
from support.applications import told_by
from support.fake_inference import ALICE_KEY
from support.gateway_rig import a_gateway


async def test_every_upload_of_fals_client_ends_here(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_tls=True) as rig:
        pointing = variables("fal", Place(rig.listening.public_url, ALICE_KEY, tmp_path / "tls"))
        told: dict[str, str] = await told_by(fal_upload_script, str(tmp_path), pointing=pointing)
        for call, url in told.items():
            assert url.startswith(f"{rig.listening.public_url}/files/"), call
            if call.startswith("hidden"):
                assert (await rig.nobody.get(url)).status_code == 404
                assert (await rig.http.get(url)).content == b"some bytes"
                continue
            answer = await rig.nobody.get(url, headers={"range": "bytes=0-9"})
            assert answer.status_code == 206, call
            total = int(answer.headers["content-range"].rpartition("/")[2])
            kind = answer.headers["content-type"]
            match call:
                case "upload" | "upload_async" | "fallback":
                    assert (answer.content, kind) == (b"some bytes", "text/plain")
                case "upload_file":
                    assert (answer.content[:4], kind) == (b"\x89PNG", "image/png")
                    assert "a%20picture.png" in answer.headers["content-disposition"]
                case "upload_image":
                    assert (answer.content[:3], kind) == (b"\xff\xd8\xff", "image/jpeg")
                case "large" | "large_async":
                    assert total == fal_upload_script.LARGE_BYTES
                case _:
                    assert total > 0
        assert urlsplit(told["upload"]).path.endswith("/odd-name.txt")
