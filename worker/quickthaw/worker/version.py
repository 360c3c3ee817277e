"""Which release of the product this is."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def product_version() -> str:
    try:
        return metadata.version("quickthaw")
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        return "source"
