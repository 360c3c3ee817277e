"""Workers from measurements: logs and timed cold starts are read as they are, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quickthaw.scheduler.core.model import Tier
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.simulate.calibration import ASSUMPTION, assumed
from quickthaw.scheduler.simulate.requestlog import read_log
from quickthaw.scheduler.simulate.scenes import on_reference, replayed
from quickthaw.wire.errors import SettingsInvalid

GIB = 1 << 30


def a_request(
    number: int, *, gpu_type: str = "l40s", run_ms: int = 2_000, tier: str = "disk"
) -> dict[str, object]:
    return {
        "kind": "request",
        "model": "me/one",
        "submitted_unix_ms": 1_000_000 + 1_000 * number,
        "tenant": "t1",
        "work_units": 10.0,
        "priority": 3,
        "deadline_ms": 60_000,
        "receipt": {
            "gpu_type": gpu_type,
            "start_tier": tier,
            "load_ms": 4_000,
            "run_ms": run_ms,
            "rate_nanodollars_per_second": 400_000,
        },
    }


HEAD: list[dict[str, object]] = [
    {"kind": "log", "version": 1},
    {
        "kind": "gpu",
        "gpu_type": "l40s",
        "workers": 3,
        "vram_bytes": 45 * GIB,
        "pinned_bytes": 10 * GIB,
        "rate_nanodollars_per_second": 400_000,
    },
    {
        "kind": "model",
        "model": "me/one",
        "working_bytes": GIB,
        "components": [{"digest": "a", "size_bytes": 6 * GIB}, {"digest": "b", "size_bytes": GIB}],
    },
    {"kind": "something newer", "x": 1},
]


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_log_of_ones_own_is_replayed_with_its_sizes_times_and_priorities(tmp_path: Path) -> None:
    rows = [*HEAD, *(a_request(number) for number in range(6)), a_request(9, run_ms=0)]
    log = read_log(written(tmp_path / "log", rows))
    assert log.never_ran == 1
    assert [(gpu.gpu_type, gpu.workers) for gpu in log.gpus] == [("l40s", 3)]
    models, arrivals = replayed(on_reference(log, {"l40s": 0.5}), 1, times=2.0)
    assert [model.weight_bytes for model in models] == [7 * GIB]
    assert [each.at_seconds for each in arrivals] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])
    assert {each.run_seconds for each in arrivals} == {1.0}
    assert {(each.priority, each.deadline_seconds, each.work_units) for each in arrivals} == {
        (3, 60.0, 10.0)
    }


def test_what_the_list_command_prints_is_a_log_too(tmp_path: Path) -> None:
    rows = [
        {
            "model": "me/one",
            "submitted_unix_ms": 1_000 + n,
            "priority": "normal",
            "receipt": {"run_ms": 50},
        }
        for n in range(5)
    ]
    rows.append({"model": "me/two", "submitted_unix_ms": 900, "receipt": None})
    path = tmp_path / "list.json"
    path.write_text(json.dumps(rows))
    log = read_log(path)
    assert len(log.requests) == 5
    models, _ = replayed(log, 1)
    assert [model.id for model in models] == ["me/one"]
    assert models[0].weight_bytes > 0, "no sizes are known: they are made up"


def test_a_model_that_the_log_tells_no_sizes_of_is_as_large_as_those_it_does(
    tmp_path: Path,
) -> None:
    rows = [*HEAD, a_request(1), {**a_request(2), "model": "self-test/1"}]
    (one, unknown), _ = replayed(read_log(written(tmp_path / "log", rows)), 1)
    assert (one.id, unknown.id) == ("me/one", "self-test/1")
    assert unknown.weight_bytes == one.weight_bytes
    assert one.sizes.keys() & unknown.sizes.keys() == {"b"}, "all but the largest is shared"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "holds no request"),
        ("{}", "submitted_unix_ms must be a number, but is missing"),
        ('{"model": 1, "submitted_unix_ms": 1}', "model must be a string, but is 1"),
        ('{"model": "m", "submitted_unix_ms": -1}', "at least 0"),
        ('{"model": "m", "submitted_unix_ms": 1, "receipt": 3}', "receipt must be an object"),
        ("nonsense", "neither JSON lines"),
        ("[1, 2]", "line 1 is no JSON object"),
        ('{"kind": "log", "version": 99}', "version 99"),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, text: str, wrong: str
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(SettingsInvalid, match=r"mine\.jsonl") as refused:
        read_log(path)
    assert wrong in refused.value.message


def test_a_log_says_how_fast_its_workers_are_and_the_rest_stays_assumed(tmp_path: Path) -> None:
    rows = [*HEAD]
    rows += [a_request(number) for number in range(6)]
    rows += [
        a_request(10 + number, gpu_type="l4", run_ms=8_000, tier="vram") for number in range(5)
    ]
    fleet = assumed().logged(read_log(written(tmp_path / "log", rows)), "mine")
    l40s, l4 = fleet.kinds["l40s"], fleet.kinds["l4"]
    assert l40s.vram_bytes == 45 * GIB
    assert l40s.rate_nanodollars_per_second == 400_000
    assert l40s.tiers[Tier.DISK].bytes_per_second == pytest.approx(7 * GIB / 4)
    assert l40s.speed / l4.speed == pytest.approx(4.0)
    assert "mine" in fleet.source("l40s", "disk")
    assert fleet.source("l40s", "pinned") == ASSUMPTION
    assert fleet.source("h100", "speed") == ASSUMPTION


def test_too_few_observations_are_no_measurement(tmp_path: Path) -> None:
    rows = [*HEAD, *(a_request(number) for number in range(4))]
    fleet = assumed().logged(read_log(written(tmp_path / "log", rows)), "mine")
    assert fleet.source("l40s", "disk") == ASSUMPTION
    assert fleet.kinds["l40s"].tiers == assumed().kinds["l40s"].tiers


def a_cold_start(path: Path, gpu: str | None) -> Path:
    phases = {"manifest": 0.01, "bind": 0.04, "read": 0.9}
    row = {"seconds": {"p50": 1.05}, "phases": phases}
    document = {
        "parameters": {"bytes": 4_000_000_000, "device": "cuda", "gpu": gpu},
        "results": {"rows": {"quickthaw/disk": row, "peer/disk": row}},
    }
    path.write_text(json.dumps(document))
    return path


def test_timed_cold_starts_become_a_bandwidth_and_a_latency(tmp_path: Path) -> None:
    path = a_cold_start(tmp_path / "cold.json", "NVIDIA H100 80GB HBM3")
    fleet = assumed().cold_started(path, [])
    assert fleet.kinds["h100"].tiers[Tier.DISK] == pytest.approx((4e9, 0.05))
    assert "NVIDIA H100" in fleet.source("h100", "disk")
    assert fleet.kinds["l4"] == assumed().kinds["l4"]
    everywhere = assumed().cold_started(path, ["l4", "l40s"])
    assert everywhere.kinds["l4"].tiers[Tier.DISK].bytes_per_second == pytest.approx(4e9)


def test_cold_starts_of_an_unknown_device_ask_for_its_type(tmp_path: Path) -> None:
    path = a_cold_start(tmp_path / "cold.json", None)
    with pytest.raises(SettingsInvalid, match="FILE=TYPE"):
        assumed().cold_started(path, [])
    with pytest.raises(SettingsInvalid, match="no such GPU"):
        assumed().cold_started(path, ["b300"])
    path.write_text("{}")
    with pytest.raises(SettingsInvalid, match="no result of `bench cold-start`"):
        assumed().cold_started(path, ["l4"])


def test_prices_of_ones_own_replace_the_assumed_ones() -> None:
    table = PriceTable("mine", 7, {"l4": 123_456, "never-heard-of": 1})
    fleet = assumed().priced(table, "prices.toml")
    assert fleet.kinds["l4"].rate_nanodollars_per_second == 123_456
    assert fleet.source("l4", "price") == "prices.toml"
    assert fleet.kinds["h100"] == assumed().kinds["h100"]
