"""`/v1/models`, which is fal's platform API for what there is to call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from quickthaw.gateway.door.names import CONNECT_NAMES
from quickthaw.gateway.surfaces import route_path
from support.fake_inference import ALIAS, MODEL_ID
from support.gateway_rig import Rig, a_gateway

OVER_A_PICTURE, INTO_A_MASK = f"{MODEL_ID}/image-to-image", f"{MODEL_ID}/inpainting"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_gateway(tmp_path) as rig:
        yield rig


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["endpoint_id"] for each in answer.json()["models"]]


async def test_a_list_has_each_model_and_its_ids_for_drawing_over_pictures(rig: Rig) -> None:
    answer = await rig.http.get("/v1/models")
    assert ids(answer) == [MODEL_ID, OVER_A_PICTURE, INTO_A_MASK]
    assert (answer.json()["next_cursor"], answer.json()["has_more"]) == (None, False)
    first = answer.json()["models"][0]
    assert "openapi" not in first
    about = first["metadata"]
    assert (about["category"], about["status"]) == ("text-to-image", "active")
    assert about["description"] == "Draws shapes."
    assert about["model_url"] == f"{rig.listening.public_url}/run/{MODEL_ID}"


async def test_whatever_is_listed_can_be_called_by_that_id(rig: Rig) -> None:
    for each in (await rig.http.get("/v1/models")).json()["models"]:
        called = await rig.http.post(each["metadata"]["model_url"], json={"prompt": "x"})
        assert called.status_code == (200 if each["endpoint_id"] == MODEL_ID else 422)


async def test_what_a_model_does_not_make_is_no_end_of_its_id(rig: Rig) -> None:
    called = await rig.http.post(f"/run/{MODEL_ID}/image-to-video", json={"prompt": "x"})
    assert (called.status_code, called.json()["error_type"]) == (404, "not_found")


async def test_pages_follow_one_another(rig: Rig) -> None:
    seen: list[str] = []
    params = {"limit": "2"}
    while True:
        page = await rig.http.get("/v1/models", params=params)
        seen += ids(page)
        if not page.json()["has_more"]:
            break
        params["cursor"] = page.json()["next_cursor"]
    assert seen == [MODEL_ID, OVER_A_PICTURE, INTO_A_MASK]
    assert page.json()["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=DRAWS+shapes", [MODEL_ID, OVER_A_PICTURE, INTO_A_MASK]),
        ("q=draws+elephants", []),
        (f"q={ALIAS}", [MODEL_ID, OVER_A_PICTURE, INTO_A_MASK]),
        ("category=text-to-image", [MODEL_ID]),
        ("category=image-to-image&q=inpainting", [INTO_A_MASK]),
        ("category=text-to-video", []),
        ("status=deprecated", []),
        (f"endpoint_id={INTO_A_MASK}&endpoint_id={MODEL_ID}", [MODEL_ID, INTO_A_MASK]),
        (f"endpoint_id={MODEL_ID},{OVER_A_PICTURE}", [MODEL_ID, OVER_A_PICTURE]),
        (f"endpoint_id={ALIAS}&endpoint_id=no/such", [ALIAS]),
        (f"endpoint_id={MODEL_ID}&category=text-to-video", []),
    ],
)
async def test_a_search_finds_what_fits(rig: Rig, query: str, found: list[str]) -> None:
    assert ids(await rig.http.get(f"/v1/models?{query}")) == found


async def test_a_document_comes_along_if_it_is_asked_for(rig: Rig) -> None:
    query = f"/v1/models?endpoint_id={OVER_A_PICTURE}&expand=openapi-3.0"
    (found,) = (await rig.http.get(query)).json()["models"]
    path = f"/api/openapi/queue/openapi.json?endpoint_id={OVER_A_PICTURE}"
    assert found["openapi"] == (await rig.http.get(path)).json()
    (input_,) = (
        schema
        for name, schema in found["openapi"]["components"]["schemas"].items()
        if name.endswith("Input")
    )
    assert input_["required"] == ["prompt", "image_url"]


@pytest.mark.parametrize(
    ("query", "status", "named"),
    [
        ("limit=0", 400, "limit"),
        ("limit=many", 400, "limit"),
        ("cursor=%C3%A4", 400, "cursor"),
        ("cursor=_w", 400, "cursor"),
        ("status=lost", 400, "status"),
        ("expand=everything", 400, "expand"),
        ("&".join(f"endpoint_id=a/b{n}" for n in range(51)), 400, "endpoint_id"),
        ("endpoint_id=no/such", 404, "no/such"),
        ("endpoint_id=nothing", 404, "nothing"),
    ],
)
async def test_what_is_wrong_with_a_search_is_named(
    rig: Rig, query: str, status: int, named: str
) -> None:
    answer = await rig.http.get(f"/v1/models?{query}")
    assert (answer.status_code, named in answer.json()["detail"]) == (status, True)


async def test_fals_own_addresses_lead_here(rig: Rig) -> None:
    assert {"api.fal.ai", "fal.ai"} <= CONNECT_NAMES
    assert route_path("api.fal.ai", "/v1/models") == "/v1/models"
    target = {"x-fal-target-url": f"https://api.fal.ai/v1/models?endpoint_id={MODEL_ID}"}
    assert ids(await rig.http.get("/api/fal/proxy", headers=target)) == [MODEL_ID]
