"""Changes that a caller who goes away must not leave half done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# The event loop itself keeps no task alive.
_under_way: set[asyncio.Task[object]] = set()


def unbroken(
    change: Callable[P, Coroutine[None, None, T]],
) -> Callable[P, Coroutine[None, None, T]]:
    """Once begun it goes on to its end, in a task of its own, whatever becomes of its caller.

    A change is durable first and then true in memory, under a lock from the look at what is there
    on. A call that is cancelled while it is written would leave the two apart until the next start
    (a key that is revoked and still good), and the lock free for who has not seen it.
    """

    @wraps(change)
    async def begun(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.create_task(change(*args, **kwargs))
        _under_way.add(task)
        task.add_done_callback(_under_way.discard)
        return await asyncio.shield(task)

    return begun
