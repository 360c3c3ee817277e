"""What a model makes, by what it takes: the gateway knows a model by its input schema alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from quickthaw.gateway.json_text import Json


class Medium(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


def medium_of(properties: Mapping[str, Json]) -> Medium:
    """`properties`: of the input schema."""
    if "num_frames" in properties:
        return Medium.VIDEO
    return Medium.AUDIO if "seconds_total" in properties else Medium.IMAGE
