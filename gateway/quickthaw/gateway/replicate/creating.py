"""What a call asks for that makes a prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.replicate.errors import invalid

EVENTS = ("start", "output", "logs", "completed")
WAIT_SECONDS_MAX = 60.0
WAIT_MARGIN_SECONDS = 0.25
"""A client's own patience ends half a second after the time it names."""


CANCEL_SECONDS_MAX = 7 * 24 * 3600
_DURATION = re.compile(r"(?:(\d{1,3})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s?)?")


@dataclass(frozen=True, slots=True)
class Wanted:
    input: JsonObject
    version: str
    """Empty where the path names the model."""
    webhook: str
    events: tuple[str, ...]


def read_wanted(body: JsonObject) -> Wanted:
    """Raises HttpError 422, naming the field."""
    input_ = body.get("input")
    if input_ is None:
        input_ = {}
    if not isinstance(input_, dict):
        raise invalid("input", "must be an object of the model's inputs")
    version = body.get("version") or ""
    if not isinstance(version, str):
        raise invalid("version", "must be a text")
    webhook = body.get("webhook") or body.get("webhook_completed") or ""
    if not isinstance(webhook, str):
        raise invalid("webhook", "must be a URL")
    if webhook and not webhook.startswith(("http://", "https://")):
        raise invalid("webhook", "must be an http or https URL")
    return Wanted(input_, version, webhook, _events(body))


def _events(body: JsonObject) -> tuple[str, ...]:
    wanted = body.get("webhook_events_filter")
    if wanted is None:
        return EVENTS if body.get("webhook") else ("completed",)
    if not isinstance(wanted, list) or not all(each in EVENTS for each in wanted):
        raise invalid("webhook_events_filter", f"must be a list of some of {', '.join(EVENTS)}")
    return tuple(each for each in EVENTS if each in wanted)


def wait_seconds(headers: Mapping[str, str]) -> float:
    """How long the answer may wait for the end; 0 if it should not. Raises HttpError 422."""
    for preference in headers.get("prefer", "").lower().split(","):
        name, _, value = preference.partition("=")
        if name.strip() == "wait":
            return _wait_seconds(value.strip())
    return 0.0


def _wait_seconds(text: str) -> float:
    if not text:
        return WAIT_SECONDS_MAX - WAIT_MARGIN_SECONDS
    is_short_number = len(text) <= 4 and text.isascii() and text.isdecimal()
    if not is_short_number or not 1 <= int(text) <= WAIT_SECONDS_MAX:
        raise invalid("Prefer", "wait must be 1 to 60 seconds")
    return int(text) - WAIT_MARGIN_SECONDS


def cancel_seconds(headers: Mapping[str, str]) -> int | None:
    """After which the prediction is cancelled unless it has ended: `Cancel-After: 1m30s`; None for
    never. Raises HttpError 422."""
    text = headers.get("cancel-after", "").strip().lower()
    if not text:
        return None
    found = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(each or 0) for each in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total <= CANCEL_SECONDS_MAX:
        raise invalid("Cancel-After", "must be such as 90, 90s, 1m30s or 2h, and at most 7 days")
    return total
