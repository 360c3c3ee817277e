"""`GET /v1/models/pricing`: what endpoints cost, as fal's platform API tells it.

A model that is sold by its outputs has its unit and that unit's price. Any other is charged by the
second of the GPU that it ran on, which nobody knows beforehand: told is the dearest that it can be,
so that no estimate is too low, and every GPU type's price beside it.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.endpoints import served
from quickthaw.gateway.fal.catalog import named_endpoints, wrong_parameter
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.respond import json_response
from quickthaw.v1 import billing_pb2

PATH: Final = "/v1/models/pricing"
_TIME: Final = "compute seconds"
_NANO: Final = 1_000_000_000


async def pricing(request: Request) -> Response:
    """Raises HttpError 400 if no endpoint is named or too many are, and ModelNotFound for any that
    the key may not call."""
    gateway, credential = gateway_of(request), read_credential(request.headers)
    endpoints = named_endpoints(request.query_params)
    if not endpoints:
        raise wrong_parameter("endpoint_id", "name the endpoints whose prices are wanted")
    table = await gateway.platform.prices(credential)
    prices: list[Json] = []
    for endpoint in endpoints:
        found = await served(gateway, credential, endpoint)
        price = price_of(table, found.model.id)
        prices.append({"endpoint_id": endpoint.full, "currency": "USD", **price})
    return json_response({"prices": prices, "next_cursor": None, "has_more": False})


def price_of(table: billing_pb2.GetPricesResponse, model_id: str) -> JsonObject:
    rates = {each.gpu_type: each.rate_nanodollars_per_second for each in table.prices}
    own = next((each for each in table.models if each.model == model_id), None)
    if own is not None:
        if own.unit:
            return {"unit": own.unit, "unit_price": own.unit_price_nanodollars / _NANO}
        if own.HasField("rate_nanodollars_per_second"):
            rates = dict.fromkeys(rates, own.rate_nanodollars_per_second)
        rates |= {each.gpu_type: each.rate_nanodollars_per_second for each in own.rates}
    by_type: JsonObject = {gpu_type: rate / _NANO for gpu_type, rate in sorted(rates.items())}
    dearest = max(rates.values(), default=0) / _NANO
    return {"unit": _TIME, "unit_price": dearest, "unit_price_by_gpu_type": by_type}
