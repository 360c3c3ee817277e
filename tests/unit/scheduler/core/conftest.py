from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.core_builders import Scenario


@pytest.fixture
def scenario() -> Iterator[Scenario]:
    scenario = Scenario()
    yield scenario
    scenario.close()
