"""Runs the process that packs, follows what it says, and ends it when its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from quickthaw.cli.packer.isolation import child_environment
from quickthaw.cli.packer.order import Order, Packed, Packing, Refused, parse_answer
from quickthaw.wire.errors import BY_REASON, Internal, InvalidArgument, ResourceExhausted
from quickthaw.wire.process import describe_status

logger = logging.getLogger(__name__)

LINE_BYTES_MAX = 64 * 1024
SAID_BYTES_MAX = 4_000
SAID_SECONDS_MAX = 5.0
"""For its last words, when it has ended: something that it started may hold their pipe open."""

ENDED_SECONDS = 0.05
"""How often it is looked whether it has."""


async def pack(
    order: Order, home: Path, seconds_max: float, on_progress: Callable[[Packing], None]
) -> str:
    """The digest. The process is gone when this returns or raises: what it refused with, and
    ResourceExhausted for one that took too long or was killed."""
    process = await start("quickthaw.cli.packer.child", home)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.create_task(_last_bytes(process.stderr))
    answer: Packed | Refused | None = None
    try:
        async with asyncio.timeout(seconds_max):
            with contextlib.suppress(ConnectionError):
                process.stdin.write(order.to_json().encode())
                await process.stdin.drain()
            process.stdin.close()
            while line := await process.stdout.readline():
                match parse_answer(line):
                    case Packing() as told:
                        on_progress(told)
                    case Packed() | Refused() as told:
                        answer = told
                    case None:
                        continue
            status = await _ended(process)
    except TimeoutError as error:
        raise ResourceExhausted(
            f"packing took longer than {seconds_max:g} s, the most that it may; deploy smaller "
            "files, or what differs from a base"
        ) from error
    except ValueError as error:
        raise Internal("the packing process spoke too long a line") from error
    finally:
        if process.returncode is None:
            process.kill()
            await _ended(process)
        await asyncio.wait({said}, timeout=SAID_SECONDS_MAX)
        if said.done() and (last := said.result().decode(errors="replace").strip()):
            logger.info("the packing process said: %s", last)
        said.cancel()
    match answer:
        case Packed():
            return answer.digest
        case Refused():
            raise BY_REASON.get(answer.reason, InvalidArgument)(answer.message)
        case None:
            raise ResourceExhausted(
                f"the process that packed {describe_status(status)}: most often it needed more "
                "memory than there is; deploy smaller files, or what differs from a base"
            )


async def start(module: str, home: Path) -> asyncio.subprocess.Process:
    """A process of ours, on a tether, with pipes and without any secret of ours."""
    # A module in the folder that it starts in must never be taken for one of ours.
    python = (sys.executable, "-P", "-m")
    return await asyncio.create_subprocess_exec(
        *(*python, "quickthaw.cli.tether", str(os.getpid()), *python, module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(os.environ, home),
        cwd=home,
        limit=LINE_BYTES_MAX,
    )


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Its status. `wait` by itself waits for the pipes as well, which something that the process
    started may hold open."""
    waiting = asyncio.ensure_future(process.wait())
    try:
        while process.returncode is None:
            await asyncio.wait({waiting}, timeout=ENDED_SECONDS)
        return process.returncode
    finally:
        waiting.cancel()


async def _last_bytes(stream: asyncio.StreamReader) -> bytes:
    last = b""
    while data := await stream.read(LINE_BYTES_MAX):
        last = (last + data)[-SAID_BYTES_MAX:]
    return last
