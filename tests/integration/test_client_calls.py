"""Every call of the published clients' newest versions, by environment variables alone and by their
own options, against a platform as `quickthaw up` starts it. `scripts/compatibility` has the older
versions too and writes them down."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quickthaw.cli.pointing import Place, variables
from support.compatibility.calls import LACKING, WORKS
from support.compatibility.table import MODEL, NODE, ROOT, told
from support.node import needs_node
from support.platform import Platform, running_platform

BY_FETCH_ONLY = "stream, connectionMode client"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("clients")) as platform:
        yield platform


@pytest.fixture(scope="module")
def place(platform: Platform) -> Place:
    return Place(platform.ready["http"].rstrip("/"), platform.key, platform.data_dir / "tls")


def python(script: str, environment: dict[str, str]) -> dict[str, str]:
    module = f"support.compatibility.{script}"
    command = (sys.executable, "-P", "-m", module, MODEL)
    return told(command, {**environment, "PYTHONPATH": str(ROOT / "tests")})


def node(script: str, environment: dict[str, str], *arguments: str) -> dict[str, str]:
    return told(("node", str(NODE / script), MODEL, *arguments), environment)


def test_every_call_of_fals_python_client_works_by_environment_variables(place: Place) -> None:
    calls = python("fal_python", variables("fal", place))
    assert set(calls.values()) == {WORKS}, calls


def test_every_call_of_the_openai_client_works(place: Place) -> None:
    calls = python("openai_python", variables("openai", place))
    assert set(calls.values()) == {WORKS}, calls


@needs_node
def test_every_call_of_fals_javascript_client_works_by_environment_variables(
    place: Place,
) -> None:
    preload: Path = NODE / "env-proxy.cjs"
    options = f"--experimental-websocket --require {preload}"
    environment = {**variables("fal", place), "NODE_OPTIONS": options}
    calls = node("fal-calls.mjs", environment, "connect", place.url)
    assert set(calls.values()) == {WORKS}, calls


@needs_node
@pytest.mark.parametrize("way", ["proxy", "middleware", "fetch"])
def test_every_call_of_fals_javascript_client_works_by_its_options(place: Place, way: str) -> None:
    environment = {"FAL_KEY": place.key, "NODE_OPTIONS": "--experimental-websocket"}
    calls = node("fal-calls.mjs", environment, way, place.url)
    expected = WORKS if way == "fetch" else LACKING
    assert calls.pop(BY_FETCH_ONLY) == expected, calls
    assert set(calls.values()) == {WORKS}, calls
