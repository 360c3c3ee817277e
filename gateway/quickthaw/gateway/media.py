"""What a model makes, by what it takes: the gateway knows a model by its input schema alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from quickthaw.gateway.json_text import Json
from quickthaw.gateway.schemas import required_properties, schema_properties


class Medium(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


def medium_of(properties: Mapping[str, Json]) -> Medium:
    """`properties`: of the input schema."""
    if "num_frames" in properties:
        return Medium.VIDEO
    return Medium.AUDIO if "seconds_total" in properties else Medium.IMAGE


def category_of(schema: Mapping[str, Json], wanted: Sequence[str] = ()) -> str:
    """As fal's catalog files its models: by what each request has. `wanted`: whatever the schema
    says."""
    begins_with = "image" if "image_url" in (*required_properties(schema), *wanted) else "text"
    return f"{begins_with}-to-{medium_of(schema_properties(schema))}"
