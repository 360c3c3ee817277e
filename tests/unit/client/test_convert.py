"""Values keep what the wire says, and survive what a newer server may say."""

import dataclasses

import pytest

from quickthaw.client import OtherEvent, RequestState, Tier, WorkerState
from quickthaw.client.convert import (
    event_from_wire,
    json_to_wire,
    request_from_wire,
    state_to_wire,
    tier_from_wire,
)
from quickthaw.client.convert_operators import model_from_wire, model_to_wire, worker_from_wire
from quickthaw.v1 import catalog_pb2, fleet_pb2, inference_pb2, types_pb2
from quickthaw.wire.errors import InvalidArgument


def test_every_state_and_tier_of_the_contract_has_a_name_here() -> None:
    assert {tier_from_wire(n) for n in types_pb2.Tier.values()} == set(Tier)
    states = [s for s in RequestState if s is not RequestState.UNKNOWN]
    assert [state_to_wire(state) for state in states] == list(types_pb2.RequestState.values())[1:]


def test_an_enum_value_from_the_future_is_unknown_not_an_error() -> None:
    worker = fleet_pb2.Worker.FromString(
        fleet_pb2.Worker(worker_id="w").SerializeToString() + b"\x18\x63"
    )
    assert worker.state == 99
    assert worker_from_wire(worker).state is WorkerState.UNKNOWN


def test_an_event_of_an_unknown_kind_keeps_its_sequence() -> None:
    event = event_from_wire(inference_pb2.Event(request_id="r", sequence=9, unix_ms=5))
    assert event == OtherEvent("r", 9, 5)


def test_a_request_that_never_loaded_has_a_receipt_without_a_load_report() -> None:
    message = types_pb2.Request(request_id="r", receipt=types_pb2.Receipt(request_id="r"))
    receipt = request_from_wire(message).receipt
    assert receipt is not None
    assert receipt.load is None
    assert receipt.seed is None


def test_seed_zero_is_a_seed() -> None:
    message = types_pb2.Request(receipt=types_pb2.Receipt(seed=0))
    receipt = request_from_wire(message).receipt
    assert receipt is not None
    assert receipt.seed == 0


def test_a_model_comes_back_as_it_was_registered() -> None:
    message = catalog_pb2.Model(
        id="a/b",
        aliases=["b"],
        family="sd",
        snapshot_digest="0" * 64,
        snapshot_uri="/snapshots",
        components=[catalog_pb2.Component(name="unet", digest="1" * 64, size_bytes=7)],
        working_bytes=3,
        input_schema_json='{"type":"object"}',
        description="d",
        license="l",
    )
    model = model_from_wire(message)
    assert model.size_bytes == 7
    assert model_to_wire(model) == message
    assert dataclasses.replace(model) == model


def test_an_input_that_json_cannot_say_is_the_callers_error() -> None:
    with pytest.raises(InvalidArgument, match="JSON"):
        json_to_wire({"guidance_scale": float("nan")})
