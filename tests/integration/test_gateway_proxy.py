from __future__ import annotations

from pathlib import Path

import httpx

from support.fake_inference import MODEL_ID
from support.gateway_rig import Rig, a_gateway, events_of


async def call(
    rig: Rig, method: str, target: str, json: dict[str, object] | None = None
) -> httpx.Response:
    headers = {"x-fal-target-url": target}
    return await rig.http.request(method, "/api/fal/proxy", headers=headers, json=json)


async def test_every_surface_is_reached_through_the_proxy(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        arguments: dict[str, object] = {"prompt": "x"}
        run = await call(rig, "POST", f"https://fal.run/{MODEL_ID}", arguments)
        assert run.json()["images"]
        queue = f"https://queue.fal.run/{MODEL_ID}"
        submitted = (await call(rig, "POST", queue, arguments)).json()
        below = f"{queue}/requests/{submitted['request_id']}"
        status = await call(rig, "GET", f"{below}/status?logs=1")
        assert status.json()["status"] == "COMPLETED"
        assert status.json()["logs"]
        assert status.headers["x-fal-request-id"] == submitted["request_id"]
        assert (await call(rig, "GET", below)).json()["images"]
        assert (await call(rig, "PUT", f"{below}/cancel")).status_code == 400
        token = await call(rig, "POST", "https://rest.fal.ai/tokens/", {"allowed_apps": ["a"]})
        assert isinstance(token.json(), str)
        target = {"x-fal-target-url": f"https://fal.run/{MODEL_ID}/stream"}
        asked = {**arguments, "num_inference_steps": 4}
        async with rig.http.stream("POST", "/api/fal/proxy", headers=target, json=asked) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert len(await events_of(stream)) >= 2


async def test_the_proxy_leads_nowhere_else(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        assert (await rig.http.post("/api/fal/proxy", json={})).status_code == 400
        for target in [
            *("https://example.com/", "http://127.0.0.1/", "https://notfal.run/x", "file:///x"),
            *("https://fal.run.example.com/", "https://[", "https://user@example.com/fal.run"),
        ]:
            assert (await call(rig, "POST", target)).status_code == 412, target
        again = await call(rig, "POST", "https://fal.run/api/fal/proxy", {"prompt": "x"})
        assert again.status_code == 404


async def test_keys_and_cors_are_as_without_the_proxy(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {"x-fal-target-url": f"https://fal.run/{MODEL_ID}"}
        answer = await rig.nobody.post("/api/fal/proxy", headers=headers, json={"prompt": "x"})
        assert answer.status_code == 401
        asked = {"access-control-request-headers": "x-fal-target-url, authorization"}
        preflight = await rig.nobody.options("/api/fal/proxy", headers=asked)
        assert (
            preflight.headers["access-control-allow-headers"] == "x-fal-target-url, authorization"
        )
        assert answer.headers["access-control-allow-origin"] == "*"
