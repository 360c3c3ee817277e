"""The tables of docs/simulate.md are what its results say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.simulate.documents import markdown, refreshed

ROOT = Path(__file__).resolve().parents[3]


def a_result(question: str, results: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        "question": question,
        "seed": 1,
        "seeds": 5,
        "requests": 3000,
        "load": 0.7,
        "workers": {"h100": 25, "l4": 25},
    }
    return {"parameters": parameters, "results": results, "commit": "abc"}


def figures(p50: float, p99: float, cost: float) -> dict[str, float]:
    return {"p50_seconds": p50, "p99_seconds": p99, "dollars_per_1000": cost}


COMPARED = a_result(
    "compare",
    {
        "steady": {
            "quickthaw": figures(1, 20, 3.4),
            "random": figures(1, 19, 3),
            "modelmesh": figures(2, 30, 3.2),
        }
    },
)


def test_a_comparison_marks_the_best_of_those_that_it_shows() -> None:
    caption, _, head, _, row = markdown(COMPARED, "overload").splitlines()
    assert "`bench/results/overload.json`: 3,000 requests on 50 GPUs of 2 types" in caption
    assert "means of 5 seeds" in caption
    assert head == "| trace | quickthaw | modelmesh |"
    assert row == "| `steady` | **20.0 s** · $3.40 | 30.0 s · **$3.20** |"


def test_an_ablation_tells_changes_against_the_whole() -> None:
    rows = {"quickthaw": figures(2, 20, 4), "no price": figures(1, 25, 4)}
    *_, row = markdown(a_result("ablate", {"steady": rows}), "ablation").splitlines()
    assert row == "| no price | -50 %, +25 %, +0 % |"


def test_only_what_is_between_the_markers_changes() -> None:
    page = "a\n<!-- one.json: begin -->\nold\n<!-- one.json: end -->\nb\n"
    after = refreshed(page, lambda name: {"one": COMPARED}[name])
    assert after.startswith("a\n<!-- one.json: begin -->\n`bench/results/one.json`")
    assert after.endswith("\n<!-- one.json: end -->\nb\n")
    assert "old" not in after
    assert refreshed(after, lambda _: COMPARED) == after


def test_a_result_that_is_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fleet.json: no table for the question 'size'"):
        markdown(a_result("size", {}), "fleet")


def test_the_page_says_what_its_results_say() -> None:
    page = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
    assert re.search(r"<!-- simulate\.json: begin -->", page)

    def result(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (ROOT / "bench" / "results" / f"{name}.json").read_bytes()
        )
        return found

    assert refreshed(page, result) == page, "run scripts/simulate-tables"
