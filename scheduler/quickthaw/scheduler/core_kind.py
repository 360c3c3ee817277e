"""Whether the core runs as Python or as C: docs/operations.md, "A compiled core"."""

from __future__ import annotations

from quickthaw.scheduler.core import machine
from quickthaw.wire.errors import SettingsInvalid

INTERPRETED, COMPILED = "interpreted", "compiled"
CORE_KIND = INTERPRETED if machine.__file__.endswith(".py") else COMPILED


def require_interpreted(what: str, kind: str = CORE_KIND) -> None:
    """Raises SettingsInvalid: a compiled core's state can neither be written down nor watched."""
    if kind == COMPILED:
        raise SettingsInvalid(
            f"{what} needs an interpreted core, and this one is compiled; "
            "install the same release without its compiled core"
        )
