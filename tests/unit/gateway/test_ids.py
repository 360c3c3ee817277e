from __future__ import annotations

import pytest

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.ids import parse_endpoint_id, parse_request_id, try_endpoint_id


@pytest.mark.parametrize(
    ("text", "app", "full"),
    [
        ("fal-ai/flux", "fal-ai/flux", "fal-ai/flux"),
        ("fal-ai/flux/dev", "fal-ai/flux", "fal-ai/flux/dev"),
        ("/fal-ai/flux/dev/", "fal-ai/flux", "fal-ai/flux/dev"),
        ("workflows/me/mine/x", "workflows/me/mine", "workflows/me/mine/x"),
        ("workflows/mine", "workflows/mine", "workflows/mine"),
        ("comfy/me/mine", "comfy/me/mine", "comfy/me/mine"),
        ("12345-my-app", "12345/my-app", "12345/my-app"),
    ],
)
def test_an_endpoint_id_has_an_app_that_queues_are_addressed_by(
    text: str, app: str, full: str
) -> None:
    endpoint = parse_endpoint_id(text)
    assert (endpoint.app, endpoint.full) == (app, full)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shapes",
        "a//b",
        "../b",
        "a/..",
        "a/b c",
        "queue/b",
        "Health/x",
        "a/" + "b" * 200,
        "a/%2e",
    ],
)
def test_what_can_be_no_endpoint_is_an_unknown_one(text: str) -> None:
    assert try_endpoint_id(text) is None
    with pytest.raises(HttpError) as caught:
        parse_endpoint_id(text)
    assert caught.value.answer.status == 404
    assert isinstance(caught.value.answer.detail, str)


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "x" * 129, "a/b", "ü"])
def test_what_can_be_no_request_id_is_an_unknown_one(text: str) -> None:
    with pytest.raises(HttpError) as caught:
        parse_request_id(text)
    assert caught.value.answer.status == 404
