"""Alerts and dashboard ask for what the parts tell, and each alert fires."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.documents import ROOT
from support.expositions import families, sample_names, series

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = (PROMETHEUS / "alerts.yaml").read_text(encoding="utf-8")
DASHBOARD = ROOT / "deploy" / "grafana" / "quickthaw.json"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ALERTS = re.findall(r"- alert: (\w+)", RULES)

SELECTOR = re.compile(r"\b((?:quickthaw|process)_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~?)"([^"]*)"')
OF_THE_SCRAPE = {"job", "instance", "part", "component"}


def selectors(text: str) -> set[tuple[str, str]]:
    """Metrics with the matchers between their braces."""
    return set(SELECTOR.findall(text))


def own_matchers(text: str) -> list[tuple[str, str, str]]:
    """Without those of labels that Prometheus itself adds."""
    return [each for each in MATCHER.findall(text) if each[0] not in OF_THE_SCRAPE]


def expressions() -> str:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return "\n".join(each["expr"] for panel in panels for each in panel.get("targets", ()))


@pytest.mark.parametrize("text", [RULES, expressions()], ids=["alerts", "dashboard"])
def test_what_is_asked_for_is_told(text: str) -> None:
    told = {name for part in families().values() for each in part for name in sample_names(each)}
    asked = {name for name, _ in selectors(text)} - {"quickthaw_"}
    assert asked
    assert asked <= told


def test_what_an_alert_counts_is_told_as_nothing_before_it_happens() -> None:
    """A series that begins with 1 has no increase in Prometheus, so its alert would stay silent."""
    told = set().union(*map(series, families().values()))
    silent = [
        (name, label, value)
        for name, matchers in selectors(RULES)
        for label, _, values in own_matchers(matchers)
        for value in values.split("|")
        if not any(name == known and (label, value) in labels for known, labels in told)
    ]
    assert silent == []
    names = {known for known, _ in told}
    assert {name for name, _ in selectors(RULES)} <= names


def test_each_alert_is_made_to_fire_and_the_page_says_what_to_do() -> None:
    tests = (PROMETHEUS / "alerts.test.yaml").read_text(encoding="utf-8")
    assert [name for name in ALERTS if f'alertname="{name}"' not in tests] == []
    assert set(re.findall(r"`(Quickthaw[A-Z]\w+)`", OPERATIONS)) == set(ALERTS)


@pytest.mark.parametrize(
    "words",
    [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")],
    ids=" ".join,
)
def test_prometheus_own_tool_agrees(words: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine: install Debian's `prometheus` package")
    done = subprocess.run([promtool, *words], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scrape_configuration_reads_what_up_writes() -> None:
    configuration = (PROMETHEUS / "prometheus.yaml").read_text(encoding="utf-8")
    assert re.findall(r"rule_files: \[(.*)\]", configuration) == ["alerts.yaml"]
    assert Path(*re.findall(r"files: \[(/.*)\]", configuration)).name == "prometheus-targets.json"
