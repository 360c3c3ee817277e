"""What a caller may name, in every dialect that calls by ids: a model, by its id or an alias, and a
model drawing over a picture, by an id with an end, `owner/name/image-to-image`.

fal has ids of their own for that, and here one model does both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.ids import EndpointId
from quickthaw.gateway.json_text import JsonObject, object_or_empty
from quickthaw.gateway.media import category_of
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.schemas import required_properties, schema_properties
from quickthaw.gateway.surfaces import RESERVED
from quickthaw.v1 import catalog_pb2
from quickthaw.wire.errors import ModelNotFound

WITH_PICTURES: Mapping[str, tuple[str, ...]] = {
    "image-to-image": ("image_url",),
    "image-to-video": ("image_url",),
    "inpainting": ("image_url", "mask_url"),
}
"""Ends of ids, and what calls by them must have."""
SCHEMAS_MAX = 256
"""Kept as far as read: models of one family share theirs."""


@dataclass(frozen=True, slots=True)
class Served:
    endpoint: EndpointId
    """By which the platform knows the model."""
    model: catalog_pb2.Model
    schema: JsonObject
    """Of its input."""
    wanted: tuple[str, ...] = ()
    """What a call by this id has to give, whatever the schema says."""
    end: str = ""
    """Of the id that it was asked for by, where the platform does not know that."""

    @property
    def listed_id(self) -> str:
        """As lists have it, also of what was asked for by an alias."""
        return f"{self.model.id}/{self.end}" if self.end else self.model.id


class Entry(NamedTuple):
    """One id of a list. There may be some for each of ten thousand models, of which a page has
    few."""

    id: str
    model: catalog_pb2.Model
    category: str
    wanted: tuple[str, ...] = ()
    """As `Served` has it."""


async def served(gateway: Gateway, credential: Credential, endpoint: EndpointId) -> Served:
    """What answers calls by this id. Raises ModelNotFound."""
    try:
        model = await gateway.platform.model(credential, endpoint.full)
        await gateway.holders.learn(credential)
        return Served(endpoint, model, object_or_empty(model.input_schema_json))
    except ModelNotFound:
        end = endpoint.path[-1] if endpoint.path else ""
        if end not in WITH_PICTURES:
            raise
        base = replace(endpoint, path=endpoint.path[:-1])
        model = await gateway.platform.model(credential, base.full)
        schema = object_or_empty(model.input_schema_json)
        if not _does(schema, end):
            raise
        return Served(base, model, schema, WITH_PICTURES[end], end)


def listed(models: Sequence[catalog_pb2.Model]) -> list[Entry]:
    """All ids of these models but for aliases, in their order; `served` knows each."""
    own = {model.id for model in models}
    entries = [
        each
        for model in models
        for each in _entries(model)
        if each.id not in own or not each.wanted
    ]
    return sorted(entries, key=lambda each: each.id)


def _entries(model: catalog_pb2.Model) -> Iterator[Entry]:
    if model.id.partition("/")[0].lower() in RESERVED:
        return  # No path leads to it here.
    category, ends = _uses(model.input_schema_json)
    yield Entry(model.id, model, category)
    if model.id.rpartition("/")[2] in WITH_PICTURES:
        return
    for end, of_end in ends:
        yield Entry(f"{model.id}/{end}", model, of_end, WITH_PICTURES[end])


@lru_cache(maxsize=SCHEMAS_MAX)
def _uses(schema_json: str) -> tuple[str, Sequence[tuple[str, str]]]:
    """The category, and the ends by which a call has to give more than by the model's own id, with
    theirs."""
    schema = object_or_empty(schema_json)
    required = required_properties(schema)
    ends = [
        (end, category_of(schema, wanted))
        for end, wanted in WITH_PICTURES.items()
        if _does(schema, end) and not set(wanted) <= set(required)
    ]
    return category_of(schema), ends


def _does(schema: JsonObject, end: str) -> bool:
    wanted = WITH_PICTURES[end]
    takes = set(wanted) <= schema_properties(schema).keys()
    return takes and end in ("inpainting", category_of(schema, wanted))
