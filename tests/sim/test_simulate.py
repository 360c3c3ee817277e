"""The simulator: nothing is lost in it, equal seeds give equal figures, questions get answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench.simulate import report
from bench.simulate.policies import BASELINES
from bench.simulate.study import OURS, Scene, a_random, ablate, simulate, size_fleet
from bench.simulate.traces import GIB, TRACES, Traffic, catalog, recorded
from bench.simulate.world import KINDS

TRAFFIC = Traffic(models=40, tenants=4, requests=300, rate=2.0)


def a_scene(trace: str = "steady", *, seed: int = 1, **changes: int) -> Scene:
    models = catalog(a_random(seed, "models"), TRAFFIC.models)
    arrivals = list(TRACES[trace](a_random(seed, trace), TRAFFIC))
    kinds = [KINDS["h100"], KINDS["l40s"], KINDS["l40s"], KINDS["h100"]] * 2
    return Scene(models, arrivals, kinds, 100 * GIB, seed, **changes)


@pytest.mark.parametrize("policy", [OURS, *BASELINES])
@pytest.mark.parametrize("trace", TRACES)
def test_every_request_of_every_trace_ends_once(policy: str, trace: str) -> None:
    figures = simulate(a_scene(trace), policy)
    assert figures.requests == TRAFFIC.requests
    assert 0 < figures.p50_seconds <= figures.p95_seconds <= figures.p99_seconds
    assert 0 < figures.busy_share <= 1
    assert figures.remote_share <= figures.cold_share


@pytest.mark.parametrize("policy", [OURS, "random", "serverlessllm"])
def test_deaths_and_slow_disks_lose_time_and_no_request(policy: str) -> None:
    calm = simulate(a_scene(), policy)
    hit = simulate(a_scene(deaths=3, slow_disks=2), policy)
    assert hit.requests == calm.requests == TRAFFIC.requests
    assert hit.lost_attempts > 0
    assert hit.p99_seconds > calm.p99_seconds


def test_equal_seeds_give_equal_figures_and_others_do_not() -> None:
    assert simulate(a_scene(seed=5), OURS) == simulate(a_scene(seed=5), OURS)
    assert simulate(a_scene(seed=5), OURS) != simulate(a_scene(seed=6), OURS)


def test_a_fleet_is_sized_to_the_smallest_that_keeps_the_promise() -> None:
    scene, kind = a_scene(), KINDS["h100"]
    sized = size_fleet(scene, kind, 40.0, 64, {})
    assert sized.workers is not None
    assert sized.figures is not None
    assert sized.figures.p99_seconds <= 40.0
    one_less = simulate(replace(scene, kinds=[kind] * (sized.workers - 1)), OURS)
    assert one_less.p99_seconds > 40.0
    assert sized.dollars_per_hour == pytest.approx(sized.workers * 1.1e6 * 3600 / 1e9)


def test_a_fleet_too_small_for_the_largest_model_has_no_size() -> None:
    assert size_fleet(a_scene(), replace(KINDS["l4"], vram_bytes=GIB), 40.0, 8, {}).workers is None


def test_each_term_of_the_score_can_be_taken_away() -> None:
    found = dict(ablate(a_scene(), {}))
    assert len(set(found.values())) > 3, "terms that change nothing are not worth having"


def test_a_log_of_ones_own_is_replayed(tmp_path: Path) -> None:
    rows = [
        {
            "model": "me/one",
            "submitted_unix_ms": 1_000 + 10 * n,
            "tenant": "me",
            "receipt": {"run_ms": 50},
        }
        for n in range(5)
    ]
    rows.append({"model": "me/two", "submitted_unix_ms": 900, "receipt": {"run_ms": 0}})
    lines = tmp_path / "requests.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows))
    array = tmp_path / "requests.json"
    array.write_text(json.dumps(rows))
    log = recorded(lines)
    assert log == recorded(array)
    assert [each.at_seconds for each in log.arrivals] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert {each.run_seconds for each in log.arrivals} == {0.05}
    assert log.models == ["me/one", "me/two"]


@pytest.mark.parametrize("text", ["", "{}", '{"model": 1}', "nonsense", "[1, 2]"])
def test_a_log_that_cannot_be_read_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(SystemExit, match="log"):
        recorded(path)


def test_the_picture_is_a_picture(tmp_path: Path) -> None:
    scene = a_scene()
    tables = {"steady": {name: simulate(scene, name) for name in (OURS, "random")}}
    report.picture(tables, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
