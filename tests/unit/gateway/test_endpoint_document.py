from __future__ import annotations

import json
from typing import cast

import pytest

from quickthaw.gateway.fal.schema import endpoint_document
from quickthaw.gateway.ids import parse_endpoint_id
from quickthaw.gateway.json_text import JsonObject
from quickthaw.v1 import catalog_pb2
from support.fake_inference import SCHEMA

MODEL = cast("JsonObject", SCHEMA)


def the_input_schema() -> JsonObject:
    model = catalog_pb2.Model(id="fal-ai/shapes/dev", input_schema_json=json.dumps(SCHEMA))
    document = endpoint_document(parse_endpoint_id("fal-ai/shapes/dev"), model, "http://gw")
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
    model = catalog_pb2.Model(id="a/b", input_schema_json=json.dumps(SCHEMA))
    document = endpoint_document(parse_endpoint_id("a/b"), model, "http://gw")
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
    ("required", "filed"),
    [(["prompt"], "text-to-image"), (["prompt", "image_url"], "image-to-image")],
)
def test_an_endpoint_is_filed_by_what_each_request_has(required: list[str], filed: str) -> None:
    schema = json.dumps({**SCHEMA, "required": required})
    model = catalog_pb2.Model(id="me/shapes", input_schema_json=schema)
    document = endpoint_document(parse_endpoint_id("me/shapes"), model, "http://gw")
    about = cast("JsonObject", cast("JsonObject", document["info"])["x-fal-metadata"])
    assert about["category"] == filed
