from __future__ import annotations

import pytest

from quickthaw.scheduler.core_kind import COMPILED, CORE_KIND, INTERPRETED, require_interpreted
from quickthaw.wire.errors import SettingsInvalid


def test_a_compiled_core_says_that_it_keeps_no_log_of_decisions() -> None:
    with pytest.raises(SettingsInvalid, match=r"--decision-log-mib needs an interpreted core"):
        require_interpreted("--decision-log-mib", COMPILED)


def test_an_installation_from_sources_runs_them() -> None:
    assert CORE_KIND == INTERPRETED
    require_interpreted("--decision-log-mib")
