"""Why an upload ends."""

from __future__ import annotations


class UploadRefused(Exception):
    """The caller did something that cannot be; the text says what."""


class QuotaExceeded(Exception):
    """The caller has as much as it may; the text says how much that is."""
