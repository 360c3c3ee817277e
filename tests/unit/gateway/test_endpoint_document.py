from __future__ import annotations

import json
from typing import cast

import pytest

from quickthaw.gateway.endpoints import Served
from quickthaw.gateway.fal.schema import endpoint_document
from quickthaw.gateway.ids import parse_endpoint_id
from quickthaw.gateway.json_text import JsonObject
from quickthaw.v1 import catalog_pb2
from support.fake_inference import SCHEMA

MODEL = cast("JsonObject", SCHEMA)


def document_of(
    endpoint: str, schema: JsonObject = MODEL, wanted: tuple[str, ...] = ()
) -> JsonObject:
    asked = parse_endpoint_id(endpoint)
    model = catalog_pb2.Model(id=endpoint, input_schema_json=json.dumps(schema))
    return endpoint_document(asked, Served(asked, model, schema, wanted), "http://gw")


def the_input_schema() -> JsonObject:
    document = document_of("fal-ai/shapes/dev")
    assert document["servers"] == [{"url": "http://gw/queue"}]
    assert "/fal-ai/shapes/dev/requests/{request_id}/status" in cast(
        "JsonObject", document["paths"]
    )
    components = cast("JsonObject", document["components"])
    schemas = cast("JsonObject", components["schemas"])
    assert {"QueueStatus", "FalAiShapesDevInput", "FalAiShapesDevOutput"} <= schemas.keys()
    return cast("JsonObject", schemas["FalAiShapesDevInput"])


def test_an_input_schema_lists_its_properties_in_order() -> None:
    schema = the_input_schema()
    assert schema["required"] == ["prompt"]
    properties = cast("JsonObject", schema["properties"])
    assert (
        schema["x-fal-order-properties"]
        == list(properties)
        == list(cast("JsonObject", MODEL["properties"]))
    )


def test_a_size_may_be_an_object_or_a_name() -> None:
    properties = cast("JsonObject", the_input_schema()["properties"])
    size = cast("JsonObject", properties["image_size"])
    reference, names = cast("list[JsonObject]", size["anyOf"])
    assert reference == {"$ref": "#/components/schemas/ImageSize"}
    assert "landscape_4_3" in cast("list[str]", names["enum"])
    assert size["default"] == {"width": 64, "height": 64}


def test_a_lora_has_the_name_that_fal_has_for_it() -> None:
    document = document_of("a/b")
    schemas = cast("JsonObject", cast("JsonObject", document["components"])["schemas"])
    lora = cast("JsonObject", schemas["LoraWeight"])
    assert (lora["required"], lora["x-fal-order-properties"]) == (["path"], ["path", "scale"])
    properties = cast("JsonObject", cast("JsonObject", schemas["ABInput"])["properties"])
    loras = cast("JsonObject", properties["loras"])
    assert loras["items"] == {"$ref": "#/components/schemas/LoraWeight"}
    assert loras["maxItems"] == 8


def test_what_openapi_3_0_says_differently_is_translated() -> None:
    properties = cast("JsonObject", the_input_schema()["properties"])
    seed = cast("JsonObject", properties["seed"])
    assert (seed["type"], seed["nullable"]) == ("integer", True)
    guidance = cast("JsonObject", properties["guidance_scale"])
    assert (guidance["minimum"], guidance["exclusiveMinimum"]) == (0, True)


@pytest.mark.parametrize(
    ("required", "wanted", "filed"),
    [
        (["prompt"], (), "text-to-image"),
        (["prompt", "image_url"], (), "image-to-image"),
        (["prompt"], ("image_url",), "image-to-image"),
    ],
)
def test_an_endpoint_is_filed_by_what_each_request_has(
    required: list[str], wanted: tuple[str, ...], filed: str
) -> None:
    document = document_of("me/shapes", {**MODEL, "required": required}, wanted)
    about = cast("JsonObject", cast("JsonObject", document["info"])["x-fal-metadata"])
    assert about["category"] == filed


def test_an_id_for_drawing_over_a_picture_requires_one() -> None:
    document = document_of("me/shapes/image-to-image", wanted=("image_url",))
    schemas = cast("JsonObject", cast("JsonObject", document["components"])["schemas"])
    input_ = cast("JsonObject", schemas["MeShapesImageToImageInput"])
    assert input_["required"] == ["prompt", "image_url"]
