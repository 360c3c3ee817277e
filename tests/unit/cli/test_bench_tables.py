"""The tables of docs/benchmarks.md, options.md and remote.md are what their results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench.tables import TABLES, refreshed

ROOT = Path(__file__).resolve().parents[3]
PAGE = "a\n<!-- remote.json: begin -->\nold\n<!-- remote.json: end -->\nb\n"
MACHINE = {"cpu": "a processor", "cores": 2, "load_average": 0.5}


def median(value: float) -> dict[str, float]:
    return {"median": value, "min": 0.0, "max": 9.0}


def a_line(max_error: float, mean_error: float) -> dict[str, Any]:
    return {
        "megabytes": 14.61,
        "cold_load_seconds": median(0.0124),
        "picture_cpu_seconds": median(0.591),
        "denoiser_error": {"max": max_error, "mean": mean_error},
        "picture_error": {"max": 0.05, "mean": 0.0007},
    }


def code_line(first: float) -> dict[str, Any]:
    return {
        "first_picture_cpu_seconds": first,
        "later_cpu_seconds": median(0.4),
        "picture_error": {"max": 0.04, "mean": 0.003},
    }


OPTIONS = {
    **MACHINE,
    "results": {
        "shapes": {
            "weights": {"original": a_line(0, 0), "int8": a_line(0.003, 0.0006)},
            "code": {"compile_ahead": {}, "eager": code_line(1.2), "torch.compile": code_line(90)},
        }
    },
}


def test_only_what_is_between_the_marks_changes_and_the_machine_is_named() -> None:
    result = {**MACHINE, "results": {"socket": {"gb_per_second": 1.5, "cpu_seconds_per_gb": 0.17}}}
    after = refreshed(PAGE, {"remote": result}.get)
    assert after.startswith("a\n<!-- remote.json: begin -->\n`bench/results/remote.json`, 2 cores")
    assert "| socket | 1.50 | 0.17 |" in after
    assert "old" not in after
    assert after.endswith("\n<!-- remote.json: end -->\nb\n")
    assert refreshed(after, {"remote": result}.get) == after


def test_a_gpus_result_names_the_gpu_and_says_how_close_each_row_comes() -> None:
    ours = {
        "title": "Quickthaw",
        "start": "page-cache",
        "seconds": {"p50": 0.12345},
        "gigabytes_per_second": 24.5,
        "share_of_floor": {"p50": 0.961},
    }
    peer = {**ours, "title": "another", "share_of_floor": {}, "times_quickthaw": {"p50": 2.5}}
    result = {
        **MACHINE,
        "parameters": {"gpu": "some GPU"},
        "results": {"rows": {"quickthaw/page-cache": ours, "another/page-cache": peer}},
    }
    page = "<!-- cold_start_gpu.json: begin -->\nnot yet\n<!-- cold_start_gpu.json: end -->"
    after = refreshed(page, {"cold_start_gpu": result}.get)
    assert "`bench/results/cold_start_gpu.json`, some GPU, 2 cores of a processor" in after
    assert "| Quickthaw | page cache | 0.123 | 24.50 | 0.96 |  |" in after
    assert "| another | page cache | 0.123 | 24.50 |  | 2.50 |" in after


def test_what_caches_leave_of_a_first_picture_is_told_beside_it() -> None:
    def line(**seconds: float) -> dict[str, float]:
        own = {f"{name}_seconds": each for name, each in seconds.items()}
        children = {f"{name}_children_seconds": 0.0 for name in seconds}
        return {"uncompiled_seconds": 0.03, **own, **children}

    brought = line(importing=0, bring=0.682, first=4.18, later=0.03)
    brought["first_children_seconds"] = 11.0
    found = {"compiled": line(**{"import": 1.3, "first": 19.26, "later": 0.04}), "brought": brought}
    result = {**MACHINE, "results": {"sd": {**found, "ahead": line(first=0.02, later=0.02)}}}
    page = "<!-- options_caches.json: begin -->\n<!-- options_caches.json: end -->"
    after = refreshed(page, {"options_caches": result}.get)
    assert "| sd, uncompiled |  |  | 0.03 |  | 0.03 |" in after
    assert "| sd, torch.compile | 1.30 |  | 19.26 |  | 0.04 |" in after
    assert "| sd, torch.compile, its artifacts brought |  | 0.68 | 15.18 | 11.00 | 0.03 |" in after
    assert "| sd, compiled ahead by AOTInductor |  |  | 0.02 |  | 0.02 |" in after


def test_a_family_whose_block_was_refused_shows() -> None:
    line = {
        "class": "SomeTransformer",
        "codes_wanted": 3,
        "codes_made": 2,
        "codes_of_every_size": 1,
        "calls": 8,
        "compiled_calls": 6,
        "difference": 1.23e-6,
    }
    page = "<!-- options_families.json: begin -->\n<!-- options_families.json: end -->"
    after = refreshed(page, {"options_families": {**MACHINE, "results": {"some": line}}}.get)
    assert "| some, SomeTransformer | 6 of 8 | 2 of 3 | 1 | 1e-06 |" in after


def test_a_page_whose_result_was_never_recorded_stays_as_it_is() -> None:
    assert refreshed(PAGE, lambda _: None) == PAGE


def test_marks_that_no_table_is_made_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no table 'shapes' of options.json"):
        refreshed(
            "<!-- options.json shapes: begin -->\n<!-- options.json shapes: end -->", lambda _: None
        )


def test_eight_bits_are_compared_with_the_original_and_the_original_with_nothing() -> None:
    _, original, int8 = TABLES["options", "weights"](OPTIONS)
    assert original == ["shapes", "14.6 MB", "12 ms", "0.59 s", "", ""]
    assert int8 == ["shapes, int8", "14.6 MB", "12 ms", "0.59 s", "0.3% / 0.06%", "0.050 / 0.0007"]


def test_each_way_to_run_compiled_code_has_a_line() -> None:
    _, eager, compiled = TABLES["options", "code"](OPTIONS)
    assert eager == ["shapes, eager", "1.2 s", "0.40 s", ""]
    assert compiled == ["shapes, torch.compile", "90.0 s", "0.40 s", "0.04 / 0.003"]


@pytest.mark.parametrize("page", ["options", "remote"])
def test_the_pages_say_what_their_results_say(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert f"<!-- {page}.json" in text

    def result(name: str) -> Any:
        path = ROOT / "bench" / "results" / f"{name}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    assert refreshed(text, result) == text, "run scripts/bench-tables"
