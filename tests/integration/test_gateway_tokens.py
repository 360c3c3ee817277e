from __future__ import annotations

import json
from pathlib import Path

from support.gateway_rig import a_gateway


async def test_a_token_is_a_json_text_for_the_named_apps(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        wanted = {"allowed_apps": ["shapes"], "token_expiration": 30}
        for path in ("/rest/tokens/", "/rest/tokens"):
            answer = await rig.http.post(path, json=wanted)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert isinstance(answer.json(), str)
        by_host = await rig.http.post("/tokens/", json=wanted, headers={"host": "rest.fal.ai"})
        assert isinstance(by_host.json(), str)


async def test_only_a_good_key_gets_a_token(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        wanted = {"allowed_apps": ["shapes"]}
        for headers in ({}, {"authorization": "Key qt_wrong_key"}):
            answer = await rig.nobody.post("/rest/tokens/", json=wanted, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error_type"] == "auth_error"


async def test_what_is_wrong_with_the_wish_for_a_token_is_named(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        for wrong, field in [
            ({}, "allowed_apps"),
            ({"allowed_apps": []}, "allowed_apps"),
            ({"allowed_apps": [5]}, "allowed_apps"),
            ({"allowed_apps": "shapes"}, "allowed_apps"),
            ({"allowed_apps": ["shapes"], "token_expiration": 0}, "token_expiration"),
            ({"allowed_apps": ["shapes"], "token_expiration": True}, "token_expiration"),
            ({"allowed_apps": ["shapes"], "token_expiration": 10**9}, "token_expiration"),
        ]:
            answer = await rig.http.post("/rest/tokens/", json=wrong)
            assert answer.status_code == 422
            assert answer.json()["detail"][0]["loc"] == ["body", field]


async def test_names_that_are_too_long_together_are_refused_and_not_half_taken(
    tmp_path: Path,
) -> None:
    rules = [{"user": "\u00e9" * 60, "decision": "allow"} for _ in range(60)]
    wide = json.dumps({"initial_acl": {"rules": rules}}, ensure_ascii=False).encode("latin-1")
    async with a_gateway(tmp_path) as rig:
        many = {"allowed_apps": ["\U0001f600" * 100] * 20}
        assert (await rig.http.post("/rest/tokens", json=many)).status_code == 400
        begun = await rig.http.post(
            "/rest/storage/upload/initiate",
            json={"file_name": "a.png"},
            headers={b"x-fal-object-lifecycle": wide},
        )
        assert begun.status_code == 400
        assert "too long" in begun.text
