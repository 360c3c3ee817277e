"""What a model makes, by what it takes: the gateway knows a model by its input schema alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from quickthaw.gateway.json_text import Json, JsonObject


class Medium(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


def medium_of(properties: Mapping[str, Json]) -> Medium:
    """`properties`: of the input schema."""
    if "num_frames" in properties:
        return Medium.VIDEO
    return Medium.AUDIO if "seconds_total" in properties else Medium.IMAGE


def category_of(properties: Mapping[str, Json]) -> str:
    """As fal's catalog files its models."""
    begins_with = "image" if "image_url" in properties else "text"
    return f"{begins_with}-to-{medium_of(properties)}"


_FILE: Final[JsonObject] = {
    "url": {"type": "string"},
    "content_type": {"type": "string"},
    "file_name": {"type": "string"},
    "file_size": {"type": "integer"},
}
_SIDES: Final[JsonObject] = {"width": {"type": "integer"}, "height": {"type": "integer"}}
_LASTING: Final[JsonObject] = {"duration": {"type": "number", "description": "Seconds."}}

FILE_SCHEMAS: Final[Mapping[Medium, tuple[str, JsonObject]]] = {
    Medium.IMAGE: ("Image", {**_FILE, **_SIDES}),
    Medium.VIDEO: ("Video", {**_FILE, **_SIDES, **_LASTING}),
    Medium.AUDIO: ("Audio", {**_FILE, **_LASTING}),
}
"""The name and the properties of a file object."""


def output_properties(medium: Medium) -> JsonObject:
    """What of an output object is the medium's own."""
    name, _ = FILE_SCHEMAS[medium]
    file: JsonObject = {"$ref": f"#/components/schemas/{name}"}
    match medium:
        case Medium.IMAGE:
            return {
                "images": {"type": "array", "items": file},
                "has_nsfw_concepts": {"type": "array", "items": {"type": "boolean"}},
            }
        case Medium.VIDEO:
            return {"video": file}
        case Medium.AUDIO:
            return {"audio_file": file}
