"""Models, workers, decisions, money and keys through the blocking client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import pytest

from quickthaw.client import Client, Component, Model, Period, Scope, Tier, WorkerState
from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, types_pb2
from quickthaw.wire import errors
from support import answers
from support.fake_platform import FakePlatform, a_platform

Rig: TypeAlias = tuple[FakePlatform, Client]


@pytest.fixture
def rig() -> Iterator[tuple[FakePlatform, Client]]:
    with a_platform() as both:
        yield both


def test_a_model_is_registered_with_its_schema_and_components(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["Register"] = lambda m: catalog_pb2.RegisterResponse(
        model=m.model, changed=True
    )
    model = Model(
        id="me/mine",
        family="sd",
        snapshot_digest="0" * 64,
        snapshot_uri="/snapshots",
        components=(Component("unet", "1" * 64, 10),),
        working_bytes=5,
        input_schema={"type": "object"},
    )
    registered = client.models.register(model)
    assert registered.changed
    assert registered.model == model


def test_removing_a_model_is_not_repeated_after_a_broken_connection(rig: Rig) -> None:
    platform, client = rig

    def fail(_message: object) -> None:
        raise errors.Unavailable("the connection broke")

    platform.scripts["Remove"] = fail
    with pytest.raises(errors.Unavailable):
        client.models.remove("me/mine")
    assert len(platform.calls("Remove")) == 1


def test_workers_can_be_listed_and_drained(rig: Rig) -> None:
    platform, client = rig
    worker = fleet_pb2.Worker(
        worker_id="w",
        state=fleet_pb2.WORKER_STATE_DRAINING,
        residency=[fleet_pb2.Residency(digest="d", tier=types_pb2.TIER_PINNED, size_bytes=4)],
        labels={"zone": "a"},
    )
    platform.scripts |= {
        "ListWorkers": lambda _: fleet_pb2.ListWorkersResponse(workers=[worker]),
        "Drain": lambda _: fleet_pb2.DrainResponse(worker=worker),
        "Cordon": lambda _: fleet_pb2.CordonResponse(worker=worker),
        "Uncordon": lambda _: fleet_pb2.UncordonResponse(worker=worker),
    }
    (listed,) = client.workers.list()
    assert listed.state is WorkerState.DRAINING
    assert listed.residency[0].tier is Tier.PINNED
    assert listed.labels == {"zone": "a"}
    assert client.workers.drain("w", stop=True) == listed
    assert platform.calls("Drain")[0].stop
    assert client.workers.cordon("w") == client.workers.uncordon("w")


def test_a_decision_is_explained_with_its_candidates_and_refusals(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["Explain"] = lambda m: fleet_pb2.ExplainResponse(
        request_id=m.request_id,
        decisions=[
            fleet_pb2.Decision(
                attempt=1,
                chosen_worker_id="a",
                candidates=[fleet_pb2.Candidate(worker_id="a", score_seconds=1.5)],
                refusals=[fleet_pb2.Refusal(worker_id="b", reason="vram", detail="12 GiB short")],
            )
        ],
    )
    (decision,) = client.explain(answers.REQUEST_ID).decisions
    assert decision.candidates[0].score_seconds == 1.5
    assert decision.refusals[0].reason == "vram"


def test_ledger_and_usage_take_a_period(rig: Rig) -> None:
    platform, client = rig

    def page(message: billing_pb2.ListLedgerRequest) -> billing_pb2.ListLedgerResponse:
        last = bool(message.page.token)
        line = billing_pb2.LedgerLine(attempt_id="a2" if last else "a1", price_nanodollars=5)
        return billing_pb2.ListLedgerResponse(lines=[line], next_page_token="" if last else "x")

    platform.scripts |= {
        "ListLedger": page,
        "GetUsage": lambda m: billing_pb2.GetUsageResponse(
            tenant=m.tenant, total=billing_pb2.UsageLine(requests=2, price_nanodollars=10)
        ),
    }
    period = Period(tenant="team", from_unix_ms=1, until_unix_ms=2)
    assert [line.attempt_id for line in client.ledger(period)] == ["a1", "a2"]
    assert client.usage(period).total.price_nanodollars == 10
    asked = platform.calls("GetUsage")[0]
    assert (asked.tenant, asked.from_unix_ms, asked.until_unix_ms) == ("team", 1, 2)


def test_a_new_keys_secret_is_in_the_answer(rig: Rig) -> None:
    platform, client = rig

    def create(message: billing_pb2.CreateKeyRequest) -> billing_pb2.CreateKeyResponse:
        key = billing_pb2.Key(key_id="k", tenant=message.tenant, scopes=message.scopes)
        return billing_pb2.CreateKeyResponse(key=key, secret="qt_k_s")

    platform.scripts["CreateKey"] = create
    made = client.keys.create("team", [Scope.CALL, Scope.ADMIN], label="notebooks")
    assert made.secret == "qt_k_s"
    assert made.key.scopes == (Scope.CALL, Scope.ADMIN)
    assert platform.calls("CreateKey")[0].label == "notebooks"
