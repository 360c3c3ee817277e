"""What a call to the images API asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.openai.errors import invalid

COUNT_MAX = 10
PARTIAL_IMAGES_MAX = 3
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})\Z")
_FORMATS = ("png", "jpeg", "webp")
QUALITIES = ("low", "medium", "high", "xhigh", "max")
"""That an answer may tell of."""
_RESPONSES = ("b64_json", "url")
_OWN = frozenset(
    {
        *("model", "prompt", "n", "size", "response_format", "output_format", "stream"),
        *("output_compression", "partial_images", "quality", "style", "background"),
        *("moderation", "user", "safety_identifier", "input_fidelity"),
    }
)
"""OpenAI's names; every other argument is the model's own. Those that nothing here goes by are told
of in docs/clients.md."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`arguments` are in fal's names, which are the platform's."""

    model: str
    arguments: JsonObject
    as_url: bool
    output_format: str
    stream: bool
    partial_images: int
    size: str
    quality: str
    """One of `QUALITIES`, or `auto`."""
    safety_identifier: str


def read_wanted(body: JsonObject, default_model: str) -> Wanted:
    """Raises HttpError 400, naming the parameter."""
    model = _text(body, "model", default_model)
    if not model:
        raise invalid("name a model: this gateway has no default one", "model")
    prompt = _text(body, "prompt", "")
    if not prompt.strip():
        raise invalid("the prompt is missing or empty", "prompt")
    if _text(body, "background", "auto") == "transparent":
        raise invalid(
            "models here paint all of a picture: no background is transparent", "background"
        )
    size = _text(body, "size", "auto")
    arguments: JsonObject = {
        **{name: value for name, value in body.items() if name not in _OWN},
        "prompt": prompt,
        "num_images": _number(body, "n", 1, 1, COUNT_MAX),
    }
    if size != "auto":
        if (found := _SIZE.fullmatch(size)) is None:
            raise invalid(f"size is {size!r:.80}; write WIDTHxHEIGHT in pixels, or auto", "size")
        arguments["image_size"] = {"width": int(found[1]), "height": int(found[2])}
    output_format = _word(body, "output_format", _FORMATS)
    arguments["output_format"] = output_format
    return Wanted(
        model=model,
        arguments=arguments,
        as_url=_word(body, "response_format", _RESPONSES) == "url",
        output_format=output_format,
        stream=body.get("stream") in (True, "true"),
        partial_images=_number(body, "partial_images", 0, 0, PARTIAL_IMAGES_MAX),
        size=size,
        quality=quality if (quality := _text(body, "quality", "auto")) in QUALITIES else "auto",
        safety_identifier=_text(body, "safety_identifier", "") or _text(body, "user", ""),
    )


def _text(body: JsonObject, name: str, default: str) -> str:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise invalid(f"{name} must be a text", name)
    return value


def _word(body: JsonObject, name: str, words: tuple[str, ...]) -> str:
    """The first is the default."""
    value = _text(body, name, words[0])
    if value not in words:
        raise invalid(f"{name} is {value!r:.40}; known are {', '.join(words)}", name)
    return value


def _number(body: JsonObject, name: str, default: int, least: int, most: int) -> int:
    value: Json = body.get(name)
    if value is None:
        return default
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(f"{name} must be a whole number from {least} to {most}", name)
    return value
