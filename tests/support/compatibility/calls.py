"""Calls of a client, tried one by one; what became of each is printed as one JSON object."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping

WORKS = "works"
LACKING = "not in this version"
SECONDS_MAX = 60.0
TEXT_CHARS_MAX = 200


class Lacking(Exception):
    """This version of the client does not have the call."""


async def tried(calls: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """In order, and on after a failure. A call fails by raising, or by answering what is false."""
    told: dict[str, str] = {}
    for name, call in calls.items():
        try:
            async with asyncio.timeout(SECONDS_MAX):
                found = call()
                answer = await found if inspect.isawaitable(found) else found
            told[name] = WORKS if answer else f"answered {answer!r:.{TEXT_CHARS_MAX}}"
        except Lacking:
            told[name] = LACKING
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"[:TEXT_CHARS_MAX]
    return told


def main(calls: Mapping[str, Callable[[], object]]) -> None:
    print(json.dumps(asyncio.run(tried(calls))))
