"""The table of RPCs against the generated service descriptors."""

from quickthaw.client import methods
from quickthaw.v1 import (
    billing_pb2,
    catalog_pb2,
    deployments_pb2,
    fleet_pb2,
    inference_pb2,
    traffic_pb2,
    webhooks_pb2,
)

TABLE = [value for value in vars(methods).values() if isinstance(value, methods.Method)]
NOT_FOR_CALLERS = {
    "/quickthaw.v1.Fleet/Attach",
    *(f"/quickthaw.v1.Webhooks/{name}" for name in ("Claim", "Report", "ListSigningKeys")),
    "/quickthaw.v1.Webhooks/GetSecret",
}
UNUSED = {"/quickthaw.v1.Inference/Run", "/quickthaw.v1.Accounts/WhoAmI"}
"""`Client.run` is Submit and Watch, which survive a broken connection; Run does not. Who a key is,
only a gateway asks."""


def described() -> dict[str, tuple[str, str]]:
    return {
        f"/{service.full_name}/{method.name}": (
            method.input_type.full_name,
            method.output_type.full_name,
        )
        for file in (
            inference_pb2,
            catalog_pb2,
            deployments_pb2,
            fleet_pb2,
            billing_pb2,
            traffic_pb2,
            webhooks_pb2,
        )
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_every_rpc_that_callers_may_use_is_in_the_table() -> None:
    assert {m.path for m in TABLE} == described().keys() - NOT_FOR_CALLERS - UNUSED


def test_requests_and_responses_are_those_of_the_contract() -> None:
    found = {
        m.path: (m.request.DESCRIPTOR.full_name, m.response.DESCRIPTOR.full_name) for m in TABLE
    }
    assert found == {path: types for path, types in described().items() if path in found}
