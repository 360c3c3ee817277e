"""What a caller without a key is told of the catalog: what every tenant may call, by its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.strangers import SECRET_MODEL, Strangers, two_tenants

DOCUMENT = "/api/openapi/queue/openapi.json"


@pytest.fixture
async def strangers(tmp_path: Path) -> AsyncIterator[Strangers]:
    async with two_tenants(tmp_path) as found:
        yield found


@pytest.mark.parametrize("path", [DOCUMENT, "/v1/models"])
async def test_what_is_shared_is_told_to_who_names_it(strangers: Strangers, path: str) -> None:
    answer = await strangers.nobody.get(path, params={"endpoint_id": "test/tiny"})
    assert (answer.status_code, "test/tiny" in answer.text) == (200, True)


@pytest.mark.parametrize("path", [DOCUMENT, "/v1/models"])
async def test_what_is_private_is_as_what_nobody_has(strangers: Strangers, path: str) -> None:
    told: list[tuple[int, str]] = []
    # The third and the fourth are spelt almost as hers, and as nobody's.
    for name in (SECRET_MODEL, "nobody/nothing", f"{SECRET_MODEL[:-1]}u", "nobody/nothinu"):
        answer = await strangers.nobody.get(path, params={"endpoint_id": name})
        told.append((answer.status_code, answer.text.replace(name, "<name>")))
    assert told[0][0] == 404
    assert set(told) == {told[0]}
    both = {"endpoint_id": ["test/tiny", SECRET_MODEL]}
    mixed = await strangers.nobody.get("/v1/models", params=both)
    assert [each["endpoint_id"] for each in mixed.json()["models"]] == ["test/tiny"]


async def test_a_stranger_may_name_few_at_once(strangers: Strangers) -> None:
    named = {"endpoint_id": [f"test/tiny{n}" for n in range(5)] + ["test/tiny"]}
    assert (await strangers.nobody.get("/v1/models", params=named)).status_code == 401
    assert (await strangers.http_bob.get("/v1/models", params=named)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models?q=tiny", "/openai/v1/models", "/replicate/v1/models"]
)
async def test_a_list_needs_a_key(strangers: Strangers, path: str) -> None:
    assert (await strangers.nobody.get(path)).status_code == 401


async def test_a_bad_key_is_not_taken_for_none(strangers: Strangers) -> None:
    bad = {"authorization": "Key qt_who_what"}
    for path in (DOCUMENT, "/v1/models"):
        named = {"endpoint_id": "test/tiny"}
        answer = await strangers.nobody.get(path, params=named, headers=bad)
        assert answer.status_code == 401, path


async def test_replicates_clients_are_told_what_is_private(strangers: Strangers) -> None:
    for name, visibility in ((SECRET_MODEL, "private"), ("test/tiny", "public")):
        answer = await strangers.http_alice.get(f"/replicate/v1/models/{name}")
        assert answer.json()["visibility"] == visibility
    listed = (await strangers.http_alice.get("/replicate/v1/models")).json()["results"]
    assert {each["visibility"] for each in listed} == {"private", "public"}
