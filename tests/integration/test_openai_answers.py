"""What OpenAI's client reads of an answer, ids of refusals included, is what its types say."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent, ImagesResponse

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


@pytest.mark.parametrize(
    ("given", "quality"), [({}, None), ({"quality": "high"}, "high"), ({"quality": "hd"}, None)]
)
async def test_answers_and_events_are_what_the_clients_types_say(
    tmp_path: Path, given: dict[str, object], quality: str | None
) -> None:
    """The client itself checks none of it; programs that go by its types do."""
    body = {"model": "fal-ai/shapes/dev", "prompt": "a", "user": "someone", **given}
    path = "/openai/v1/images/generations"
    async with a_gateway(tmp_path) as rig:
        answer = ImagesResponse.model_validate((await rig.http.post(path, json=body)).json())
        assert (answer.background, answer.quality) == ("opaque", quality)
        assert answer.safety_identifier == "someone"
        streamed = await rig.http.post(path, json={**body, "stream": True, "partial_images": 1})
    events = [
        json.loads(line.removeprefix("data: "))
        for line in streamed.text.splitlines()
        if line.startswith("data: ")
    ]
    partial, completed = events
    assert ImageGenPartialImageEvent.model_validate(partial).quality == (quality or "auto")
    assert ImageGenCompletedEvent.model_validate(completed).safety_identifier == "someone"
