"""The limits of keys."""

from __future__ import annotations

import re
from typing import Final

from quickthaw.scheduler.convert.accounts import MONEY_MAX_NANODOLLARS
from quickthaw.scheduler.convert.words import invalid
from quickthaw.scheduler.keys import KeyLimits
from quickthaw.v1 import billing_pb2

REQUESTS_MAX: Final = 1_000_000
MODELS_MAX: Final = 100
_MODEL_CHARS_MAX: Final = 200
_MODEL = re.compile(r"[a-z0-9._-]+/(\*|[a-z0-9._/-]+)")


def key_limits(message: billing_pb2.KeyLimits) -> KeyLimits:
    """Raises InvalidArgument."""
    for name, most in (
        ("requests_per_minute", REQUESTS_MAX),
        ("concurrent_requests", REQUESTS_MAX),
        ("request_price_nanodollars", MONEY_MAX_NANODOLLARS),
    ):
        value: int = getattr(message, name)
        if not 0 <= value <= most:
            raise invalid(f"limits.{name}", f"must be 0 (no limit) to {most}, not {value}")
    if len(message.models) > MODELS_MAX:
        raise invalid("limits.models", f"must be at most {MODELS_MAX}")
    for index, model in enumerate(message.models):
        if len(model) > _MODEL_CHARS_MAX or _MODEL.fullmatch(model) is None:
            raise invalid(f"limits.models[{index}]", "must be a catalog id, owner/name, or owner/*")
    return KeyLimits(
        message.requests_per_minute,
        message.concurrent_requests,
        message.request_price_nanodollars,
        tuple(dict.fromkeys(message.models)),
    )
