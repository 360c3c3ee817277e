"""What a person sees who opens the gateway's address in a browser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from quickthaw.gateway.error_kinds import ERROR_KINDS
from support.fake_inference import MODEL_ID
from support.gateway_rig import a_gateway


async def test_the_address_tells_a_person_what_answers_there_and_does(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        page = await rig.nobody.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "script" not in page.headers["content-security-policy"]
        assert "default-src 'none'" in page.headers["content-security-policy"]
        links = re.findall(r'\bhref="(http[^"]+)"', page.text)
        assert len(links) == 3
        for link in links:
            answer = await rig.http.get(link)
            assert answer.status_code == 200, link
        (example,) = re.findall(r"<pre[^>]*>(.*?)</pre>", page.text, re.DOTALL)
        words = shlex.split(example.replace("\\\n", ""))
        assert words[0] == "curl"
        drawn = await rig.http.post(words[1], content=words[-1])
        assert drawn.status_code == 200, drawn.text


async def test_what_is_wrong_with_an_argument_is_explained_where_its_error_says(
    tmp_path: Path,
) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({}, "missing"),
        ({"prompt": 5}, "string_type"),
        ({"prompt": ""}, "string_too_short"),
        ({"prompt": "x", "num_images": 0}, "greater_than_equal"),
        ({"prompt": "x", "image_size": "huge"}, "one_of"),
        ({"prompt": "x", "image_url": "data:image/png;base64,eA=="}, "image_load_error"),
    ]
    async with a_gateway(tmp_path) as rig:
        page = await rig.nobody.get("/docs/errors")
        for arguments, kind in wrong:
            answer = await rig.http.post(f"/run/{MODEL_ID}", json=arguments)
            assert answer.status_code == 422
            (item,) = answer.json()["detail"]
            address, _, anchor = item["url"].partition("#")
            assert (item["type"], anchor, address) == (kind, kind, str(page.url))
        assert set(re.findall(r'<div id="(\w+)">', page.text)) == set(ERROR_KINDS)
        assert "default-src 'none'" in page.headers["content-security-policy"]
