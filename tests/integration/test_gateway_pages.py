"""What a person sees who opens the gateway's address in a browser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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
