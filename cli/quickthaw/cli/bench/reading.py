"""Reading a result back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.summary import SCHEMA_VERSION
from quickthaw.wire.errors import InvalidArgument


def read_document(path: Path) -> dict[str, Any]:
    """Raises `InvalidArgument` for what is not a result of this version of the benchmark."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        found = written["parameters"]["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path} is not a result of `quickthaw bench cold-start`") from error
    if found != SCHEMA_VERSION:
        raise InvalidArgument(
            f"{path} is of version {found}, this program reads {SCHEMA_VERSION}; measure again"
        )
    result: dict[str, Any] = written
    return result
