"""What the headers of a fal call ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.calls import CallOptions
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.idempotency import printable, read_idempotency_key
from quickthaw.gateway.storage.lifecycle import read_lifecycle
from quickthaw.v1 import types_pb2

DELIVERY_SECONDS = 300.0
"""How long a caller that wants nothing kept has for fetching what was made."""
HINT_CHARS_MAX = 200
_YES = frozenset({"1", "true", "yes"})
START_TIMEOUT_SECONDS_MAX = 7 * 24 * 3600.0


def read_options(headers: Mapping[str, str]) -> CallOptions:
    """`headers` finds names in any case. Raises HttpError, InvalidArgument, Unauthenticated."""
    low = headers.get("x-fal-queue-priority", "").lower() == "low"
    return CallOptions(
        credential=read_credential(headers),
        priority=types_pb2.PRIORITY_LOW if low else types_pb2.PRIORITY_NORMAL,
        start_timeout_seconds=_start_timeout(headers.get("x-fal-request-timeout")),
        worker_hint=printable(headers.get("x-fal-runner-hint", "")[:HINT_CHARS_MAX]),
        idempotency_key=read_idempotency_key(headers),
        no_retry=headers.get("x-fal-no-retry", "").strip().lower() in _YES,
        keep_seconds=_keep_seconds(headers),
        io_kept_seconds=DELIVERY_SECONDS if _keeps_nothing(headers) else None,
    )


def _keep_seconds(headers: Mapping[str, str]) -> float | None:
    """By the caller's lifecycle, or by its wish that nothing stays once it is delivered."""
    wish = headers.get("x-fal-object-lifecycle-preference")
    lifecycle = read_lifecycle(wish, None)
    if not lifecycle.open_to_all:
        raise HttpError(
            400,
            "X-Fal-Object-Lifecycle-Preference: initial_acl cannot be followed for what a call "
            "makes: its link is told to its caller alone, and is good for whoever holds it. Leave "
            "it out; with sync_mode: true the files are in the answer and there is no link",
            "bad_request",
        )
    seconds = lifecycle.seconds
    if _keeps_nothing(headers):
        seconds = min(seconds or DELIVERY_SECONDS, DELIVERY_SECONDS)
    return seconds


def _keeps_nothing(headers: Mapping[str, str]) -> bool:
    return headers.get("x-fal-store-io", "").strip() == "0"


def _start_timeout(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= START_TIMEOUT_SECONDS_MAX:
        raise HttpError(
            400,
            f"X-Fal-Request-Timeout is {text[:40]!r}: give seconds, above 0 and at most "
            f"{START_TIMEOUT_SECONDS_MAX:.0f}",
            "bad_request",
        )
    return seconds
