from __future__ import annotations

from quickthaw.gateway.fal.pricing import price_of
from quickthaw.v1 import billing_pb2


def a_rate(gpu_type: str, nanodollars: int) -> billing_pb2.Price:
    return billing_pb2.Price(gpu_type=gpu_type, rate_nanodollars_per_second=nanodollars)


TABLE = billing_pb2.GetPricesResponse(
    prices=[a_rate("cpu", 20_000), a_rate("default", 800_000), a_rate("h100", 1_097_000)],
    models=[
        billing_pb2.ModelPrice(
            model="acme/portrait",
            rate_nanodollars_per_second=2_000_000,
            rates=[a_rate("cpu", 50_000)],
        ),
        billing_pb2.ModelPrice(model="acme/cheap-here", rates=[a_rate("h100", 10_000)]),
        billing_pb2.ModelPrice(
            model="acme/poster", unit="megapixel", unit_price_nanodollars=3_000_000
        ),
    ],
)


def test_time_costs_what_the_dearest_gpu_costs_at_most() -> None:
    assert price_of(TABLE, "acme/any") == {
        "unit": "compute seconds",
        "unit_price": 0.001097,
        "unit_price_by_gpu_type": {"cpu": 0.00002, "default": 0.0008, "h100": 0.001097},
    }


def test_a_models_own_rates_go_before_the_gpu_types() -> None:
    assert price_of(TABLE, "acme/portrait")["unit_price_by_gpu_type"] == {
        "cpu": 0.00005,
        "default": 0.002,
        "h100": 0.002,
    }
    assert price_of(TABLE, "acme/cheap-here")["unit_price"] == 0.0008


def test_what_is_sold_by_output_costs_its_units_price() -> None:
    assert price_of(TABLE, "acme/poster") == {"unit": "megapixel", "unit_price": 0.003}
