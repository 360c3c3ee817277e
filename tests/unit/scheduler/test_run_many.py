"""Many runs over one stream: what a caller who does not read may make pile up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import cast

from quickthaw.scheduler.requests import Requests
from quickthaw.scheduler.servicers.run_many import RunMany
from quickthaw.scheduler.submissions import Submissions
from quickthaw.v1 import inference_pb2

UNUSED = object()
IN_FLIGHT_MAX = 40


async def test_a_caller_who_reads_no_refusals_is_not_read_either() -> None:
    frames_read = 0

    async def frames() -> AsyncIterator[inference_pb2.RunManyRequest]:
        nonlocal frames_read
        while True:
            frames_read += 1
            # Calls that ask for nothing.
            calls = [inference_pb2.RunCall(tag=tag) for tag in range(256)]
            yield inference_pb2.RunManyRequest(calls=calls)

    many = RunMany(
        "alice", cast("Submissions", UNUSED), cast("Requests", UNUSED), in_flight_max=IN_FLIGHT_MAX
    )
    async with aclosing(many.serve(frames())) as answers:
        assert len((await anext(answers)).ends) > 0
        for _ in range(1_000):
            await asyncio.sleep(0)
        held_back = frames_read
        assert held_back <= 4
        told = 0
        while told < 2 * 256:
            told += len((await anext(answers)).ends)
        for _ in range(100):
            await asyncio.sleep(0)
        assert frames_read > held_back
