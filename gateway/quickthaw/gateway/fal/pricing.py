"""What endpoints cost, as fal's platform API tells it.

    GET  /v1/models/pricing            each one's unit, and the price of one
    POST /v1/models/pricing/estimate   so many units of each, or calls as they were of late

A model that is sold by its outputs has its unit and that unit's price. Any other is charged by the
second of the GPU that it ran on, which nobody knows beforehand: told is the dearest that it can be,
so that no estimate is too low, and every GPU type's price beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import read_arguments
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.endpoints import served
from quickthaw.gateway.fal.catalog import IDS_MAX, named_endpoints, wrong_parameter
from quickthaw.gateway.ids import parse_endpoint_id
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.usage import PAST_DAYS
from quickthaw.v1 import billing_pb2

PATH: Final = "/v1/models/pricing"
_TIME: Final = "compute seconds"
_NANO: Final = 1_000_000_000
_BY_UNITS: Final = "unit_price"
_QUANTITIES: Final = {_BY_UNITS: "unit_quantity", "historical_api_price": "call_quantity"}
_QUANTITY_MAX: Final = 1_000_000_000


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


async def estimate(request: Request) -> Response:
    """Raises HttpError 400 for what is no such question, 404 where there were no calls to go by,
    and ModelNotFound for any endpoint that the key may not call."""
    gateway, credential = gateway_of(request), read_credential(request.headers)
    by, quantities = _asked(await read_arguments(request, gateway.limits))
    table = await gateway.platform.prices(credential)
    total = 0.0
    for name, quantity in quantities.items():
        model_id = (await served(gateway, credential, parse_endpoint_id(name))).model.id
        if by == _BY_UNITS:
            price = cast("float", price_of(table, model_id)["unit_price"])
        else:
            past = (await gateway.past_usage.by_model(credential)).get(model_id)
            if past is None:
                raise HttpError(
                    404,
                    f"no call of {name} by your tenant in the past {PAST_DAYS} days says what the "
                    f"next one costs; estimate it by {_BY_UNITS}",
                    "not_found",
                )
            price = past.price_nanodollars / past.requests / _NANO
        total += quantity * price
    return json_response({"estimate_type": by, "total_cost": round(total, 9), "currency": "USD"})


def _asked(body: JsonObject) -> tuple[str, dict[str, float]]:
    """By what to estimate, and how much of each endpoint. Raises HttpError 400."""
    by = body.get("estimate_type")
    if not isinstance(by, str) or by not in _QUANTITIES:
        raise wrong_parameter("estimate_type", f"must be one of {', '.join(_QUANTITIES)}")
    name = _QUANTITIES[by]
    endpoints = body.get("endpoints")
    if not isinstance(endpoints, Mapping) or not 1 <= len(endpoints) <= IDS_MAX:
        raise wrong_parameter("endpoints", f"must be an object of 1 to {IDS_MAX} endpoints")
    quantities: dict[str, float] = {}
    for endpoint, asked in endpoints.items():
        quantity = asked.get(name) if isinstance(asked, Mapping) else None
        number = isinstance(quantity, int | float) and not isinstance(quantity, bool)
        if not number or not 0 < cast("float", quantity) <= _QUANTITY_MAX:
            raise wrong_parameter(
                f"endpoints.{endpoint}.{name}", f"must be above 0 and at most {_QUANTITY_MAX}"
            )
        quantities[endpoint] = float(cast("float", quantity))
    return by, quantities


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
