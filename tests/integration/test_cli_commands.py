"""The commands but `run` against a platform whose answers the test writes."""

from __future__ import annotations

from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, inference_pb2, types_pb2
from support import answers
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform


def test_models_are_listed_shown_and_removed(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    platform.scripts |= {
        "ListModels": lambda _: catalog_pb2.ListModelsResponse(models=[answers.a_model()]),
        "Remove": lambda _: catalog_pb2.RemoveResponse(),
    }
    assert "quickthaw/shapes" in quickthaw("models").out
    assert quickthaw("models", "list", "--json").json[0]["aliases"] == ["shapes"]
    # The group's own option holds for its commands.
    assert quickthaw("models", "--json", "list").json == quickthaw("models", "--json").json
    shown = quickthaw("models", "show", "shapes").out
    assert "What the picture shows." in shown
    assert "required" in shown
    assert quickthaw("models", "show", "shapes", "--json").json["input_schema"]["properties"]
    assert quickthaw("models", "remove", "shapes", "--json").json == {"removed": "shapes"}


def test_workers_are_listed_and_drained(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    worker = fleet_pb2.Worker(
        worker_id="gpu-box-0",
        gpu_type="l4",
        state=fleet_pb2.WORKER_STATE_READY,
        vram_bytes=24 << 30,
        resident_models=["quickthaw/shapes"],
    )
    platform.scripts |= {
        "ListWorkers": lambda _: fleet_pb2.ListWorkersResponse(
            workers=[worker],
            estimate_checks=[
                fleet_pb2.EstimateCheck(kind="run", tested=200, within_p50=101, within_p95=188),
                fleet_pb2.EstimateCheck(kind="load"),
            ],
        ),
        "Drain": lambda _: fleet_pb2.DrainResponse(worker=worker),
    }
    out = quickthaw("workers").out
    assert "estimates of 200 runs: 50% took no longer than the p50, 94% no longer" in out
    assert "loads" not in out, "nothing is said of what was not tested"
    assert "gpu-box-0" in out
    assert "24.00 GiB" in out
    assert quickthaw("workers", "--json").json[0]["state"] == "ready"
    assert quickthaw("workers", "drain", "gpu-box-0", "--stop").status == 0
    assert platform.calls("Drain")[0].stop


def test_requests_are_listed_shown_watched_and_cancelled(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    platform.scripts |= {
        "List": lambda _: inference_pb2.ListRequestsResponse(requests=[answers.a_request()]),
        "Get": lambda _: answers.a_request(),
    }
    assert answers.REQUEST_ID in quickthaw("requests").out
    assert quickthaw("requests", "list", "--json", "--limit", "5").json[0]["state"] == "succeeded"
    assert platform.calls("List")[-1].page.size == 5
    assert "a red circle" in quickthaw("requests", "show", answers.REQUEST_ID).out
    watched = quickthaw("requests", "watch", answers.REQUEST_ID, "--json", "--after", "5")
    assert [line["event"] for line in watched.lines] == ["progressed", "finished"]
    cancelled = quickthaw("requests", "cancel", answers.REQUEST_ID, "--json").json
    assert cancelled == {"request_id": answers.REQUEST_ID, "state": "cancelled"}


def test_explain_shows_who_won_by_what_and_why_the_others_did_not(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    decision = fleet_pb2.Decision(
        attempt=1,
        chosen_worker_id="a",
        candidates=[
            fleet_pb2.Candidate(worker_id="b", score_seconds=2.5, drain_seconds=2.5),
            fleet_pb2.Candidate(
                worker_id="a",
                score_seconds=1.25,
                load_seconds=0.5,
                run_seconds=0.75,
                start_tier=types_pb2.TIER_PINNED,
                evict_digests=["d"],
            ),
        ],
        refusals=[
            fleet_pb2.Refusal(worker_id="c", reason="vram", detail="12 GiB short"),
            *(fleet_pb2.Refusal(worker_id=f"busy{n}", reason="depth") for n in range(6)),
        ],
        tie_break="worker id",
    )
    platform.scripts["Explain"] = lambda m: fleet_pb2.ExplainResponse(
        request_id=m.request_id, decisions=[decision]
    )
    platform.scripts["Get"] = lambda _: answers.a_request()
    out = quickthaw("explain", "r").out
    assert "attempt 1  → a: loads 500 ms from pinned, runs 750 ms, evicts 1 component" in out
    assert out.index("1.25 s") < out.index("2.50 s"), "the best comes first"
    row = next(line for line in out.splitlines() if line.strip().startswith("→"))
    assert "▓" in row, "the load is drawn"
    for fact in ("✗ vram  c  12 GiB short", "tie broken by worker id"):
        assert fact in out
    assert "✗ depth ×6  busy0, busy1, busy2, busy3 and 2 more" in out
    as_json = quickthaw("explain", "r", "--json").json
    assert as_json["decisions"][0]["candidates"][1]["start_tier"] == "pinned"


def test_without_an_id_the_newest_request_is_explained(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    mine = [answers.a_request()]
    platform.scripts["List"] = lambda _: inference_pb2.ListRequestsResponse(requests=mine)
    platform.scripts["Explain"] = lambda m: fleet_pb2.ExplainResponse(request_id=m.request_id)
    assert quickthaw("explain", "--json").json["request_id"] == mine[0].request_id
    mine.clear()
    none = quickthaw("explain")
    assert (none.status, "no requests yet" in none.err) == (2, True)


def test_a_quote_shows_both_estimates(quickthaw: Quickthaw, platform: FakePlatform) -> None:
    platform.scripts["Quote"] = lambda _: inference_pb2.QuoteResponse(
        worker_id="w",
        start_tier=types_pb2.TIER_VRAM,
        run_seconds=inference_pb2.Estimate(p50=1.5, p95=2.5),
        price_nanodollars=inference_pb2.Estimate(p50=30_000, p95=50_000),
    )
    out = quickthaw("quote", "shapes", "prompt=x").out
    assert "1.50 s (95 %: 2.50 s)" in out
    assert "$0.00003 (95 %: $0.00005)" in out
    assert quickthaw("quote", "shapes", "prompt=x", "--json").json["run_seconds"]["p95"] == 2.5
    assert platform.calls("Submit") == []


def test_usage_is_a_table_an_object_or_the_ledger_as_csv(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    line = billing_pb2.UsageLine(model="m", gpu_type="l4", requests=2, price_nanodollars=30)
    ledger = billing_pb2.LedgerLine(
        attempt_id="a1",
        model="m, with a comma",
        outcome=types_pb2.REQUEST_STATE_SUCCEEDED,
        price_nanodollars=30,
    )
    platform.scripts |= {
        "GetUsage": lambda _: billing_pb2.GetUsageResponse(tenant="t", lines=[line], total=line),
        "ListLedger": lambda _: billing_pb2.ListLedgerResponse(lines=[ledger]),
        "GetPrices": lambda _: billing_pb2.GetPricesResponse(
            version="v1",
            prices=[billing_pb2.Price(gpu_type="l4", rate_nanodollars_per_second=222_000)],
        ),
    }
    assert "total" in quickthaw("usage").out
    assert quickthaw("usage", "--json").json["total"]["price_nanodollars"] == 30
    heading, row = quickthaw("usage", "--csv", "--from", "2026-11-01").out.splitlines()
    assert heading.split(",")[1] == "attempt_id"
    assert '"m, with a comma"' in row
    assert ",succeeded," in row
    assert platform.calls("ListLedger")[0].from_unix_ms > 0
    assert "$0.7992/h" in quickthaw("prices").out


def test_a_new_keys_secret_is_all_that_is_printed(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    key = billing_pb2.Key(key_id="k", tenant="team", scopes=[billing_pb2.SCOPE_CALL])
    platform.scripts |= {
        "CreateKey": lambda _: billing_pb2.CreateKeyResponse(key=key, secret="qt_k_s"),
        "ListKeys": lambda _: billing_pb2.ListKeysResponse(keys=[key]),
        "RevokeKey": lambda _: billing_pb2.RevokeKeyResponse(key=key),
    }
    assert quickthaw("keys", "create", "team", "--label", "x").out == "qt_k_s\n"
    assert quickthaw("keys", "create", "team", "--json").json["key"]["scopes"] == ["call"]
    assert "team" in quickthaw("keys").out
    assert quickthaw("keys", "revoke", "k").status == 0
