"""Pages of long lists."""

from __future__ import annotations

from quickthaw.scheduler.convert.words import invalid
from quickthaw.v1 import types_pb2

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
VERSIONS_MAX = 2**62


def page_size(page: types_pb2.Page) -> int:
    """Raises InvalidArgument."""
    if not 0 <= page.size <= PAGE_SIZE_MAX:
        raise invalid("page.size", f"must be 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}")
    return page.size or PAGE_SIZE_DEFAULT


def version_token(page: types_pb2.Page) -> int:
    """Below which version the page begins. Raises InvalidArgument."""
    if not page.token:
        return VERSIONS_MAX
    if not (page.token.isascii() and page.token.isdecimal() and len(page.token) < 19):
        raise invalid("page.token", "must be one that ListVersions gave")
    return int(page.token)
