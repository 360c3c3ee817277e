"""What OpenAI's client calls a request's id is on every answer, refusals included."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig, a_gateway


def client_of(rig: Rig, key: str = ALICE_KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{rig.listening.public_url}/openai/v1", api_key=key)


async def test_answers_and_refusals_have_the_id_that_the_client_shows(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, client_of(rig) as client:
        drawn = await client.images.with_raw_response.generate(
            model="fal-ai/shapes/dev", prompt="a"
        )
        assert drawn.headers["x-request-id"] in rig.platform.requests
        listed = await client.models.with_raw_response.list()
        assert listed.headers["x-request-id"]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.images.generate(model="fal-ai/shapes/dev", prompt="a", n=99)
        assert refused.value.request_id
        async with client_of(rig, "wrong") as stranger:
            with pytest.raises(openai.AuthenticationError) as unknown:
                await stranger.models.list()
            assert unknown.value.request_id
