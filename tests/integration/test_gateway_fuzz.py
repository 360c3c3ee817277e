"""Bodies and headers that make no sense, to every dialect: refused in order, with nothing told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quickthaw.gateway.settings import Limits
from support.fake_inference import ADMIN_KEY, ALICE_KEY, MODEL_ID
from support.gateway_rig import Rig, a_gateway

ROUTES = (
    f"/run/{MODEL_ID}",
    f"/run/{MODEL_ID}/stream",
    f"/queue/{MODEL_ID}",
    "/openai/v1/images/generations",
    "/openai/v1/images/edits",
    "/replicate/v1/files",
    "/rest/tokens",
    "/rest/storage/upload/initiate",
)
"""Of whose answers none is a 5xx, whatever they are sent."""
HEADERS = (
    *("content-type", "prefer", "host", "origin", "accept", "range", "user-agent"),
    *("x-fal-request-timeout", "x-fal-queue-priority", "x-fal-runner-hint", "x-fal-no-retry"),
    *("x-fal-target-url", "x-fal-object-lifecycle-preference", "x-fal-store-io"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(
    ["prompt", "image_size", "seed", "input", "model", "n", "size", "image_url"]
)
bodies = st.binary(max_size=300) | st.dictionaries(names, json_values, max_size=5).map(
    lambda value: json.dumps(value).encode()
)
# Latin-1 without what ends a header; HTTP forbids the rest before any code of ours sees it.
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))
headers = st.dictionaries(st.sampled_from(HEADERS), values.map(str.strip), max_size=4)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_gateway(tmp_path, limits=Limits(drain_seconds=1, body_seconds=5)) as rig:
        yield rig


@pytest.mark.parametrize("route", ROUTES)
async def test_nonsense_is_the_callers_fault_and_the_gateway_goes_on(
    rig: Rig, route: str, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[bytes, dict[str, str]]] = []

    @settings(max_examples=25, derandomize=True, database=None)
    @given(bodies, headers)
    def collect(body: bytes, fields: dict[str, str]) -> None:
        calls.append((body, fields))

    collect()
    for body, fields in calls:
        sent = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
        answer = await rig.http.post(route, content=body, headers=sent)
        assert answer.status_code < 500, (body, fields, answer.text)
        told = answer.text
        assert "Traceback" not in told
        assert ALICE_KEY not in told
        assert ADMIN_KEY not in told
    assert (await rig.nobody.get("/health")).status_code == 200
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert ALICE_KEY not in out + err
