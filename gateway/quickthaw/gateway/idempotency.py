"""`Idempotency-Key`: a header by which a call can be made again and is the same request.

fal's, Replicate's and OpenAI's callers send it alike. It is the caller's tenant's key of `Submit`,
so that it is as durable as the request, and good across dialects and gateways.
"""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.wire.errors import InvalidArgument
from quickthaw.wire.limits import IDEMPOTENCY_KEY_CHARS_MAX

HEADER = "Idempotency-Key"


def read_idempotency_key(headers: Mapping[str, str]) -> str:
    """Empty for none. `headers` finds names in any case. Raises InvalidArgument."""
    text = headers.get(HEADER.lower(), "")
    if len(text) > IDEMPOTENCY_KEY_CHARS_MAX:
        raise InvalidArgument(
            f"{HEADER} has {len(text)} characters: give at most {IDEMPOTENCY_KEY_CHARS_MAX}"
        )
    return printable(text)


def printable(text: str) -> str:
    """Header bytes reach us as Latin-1; what is no text in it is no name of anything either."""
    return "".join(character for character in text if character.isprintable())
