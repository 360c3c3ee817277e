"""Requests that have ended cost a scheduler no memory, whoever made them and in whatever way."""

from __future__ import annotations

import asyncio
from pathlib import Path

from quickthaw.v1 import billing_pb2, catalog_pb2, inference_pb2, types_pb2
from support.fake_worker import FakeWorker
from support.schedulers import Caller, SchedulerProcess, a_model, submission

MIB = 1024 * 1024
ROUND, AT_ONCE, TENANTS = 500, 40, 10
GROWTH_BYTES_MAX = 3 * MIB
"""Over four rounds: two kibibytes left by each request would be more."""
BOUNDS = (
    *("--finished-logs-max", "50", "--decisions-max", "50", "--explanations-max", "50"),
    *("--lease-ms", "60000"),  # a worker that is lost would stay away
)
"""What is kept of ended requests on purpose, so small that it is full after one round."""


async def test_what_has_ended_is_forgotten(tmp_path: Path) -> None:
    with SchedulerProcess(tmp_path, BOUNDS) as process:
        admin = Caller(process.grpc, process.key("admin"))
        await admin.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        callers = [await a_tenant(process, admin, number) for number in range(TENANTS)]
        async with FakeWorker(
            process.grpc, process.key("worker"), automatic=True, concurrency=AT_ONCE, metered_ms=1
        ):
            for number in range(3):  # Pools, arenas and caches are as large as they will be.
                await a_round(callers, number)
            before = rss_bytes(process)
            for number in range(3, 7):
                await a_round(callers, number)
            assert rss_bytes(process) - before < GROWTH_BYTES_MAX
        for caller in (admin, *callers):
            await caller.channel.close()


async def a_tenant(process: SchedulerProcess, admin: Caller, number: int) -> Caller:
    request = billing_pb2.CreateKeyRequest(
        tenant=f"tenant-{number}",
        scopes=[billing_pb2.SCOPE_CALL],
        limits=billing_pb2.KeyLimits(requests_per_minute=1_000_000, concurrent_requests=1_000),
    )
    return Caller(process.grpc, (await admin.accounts.CreateKey(request)).secret)


async def a_round(callers: list[Caller], number: int) -> None:
    """Runs, requests with keys that are watched, some cancelled, some refused."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> None:
        caller = callers[index % len(callers)]
        async with room:
            match index % 4:
                case 0:
                    key = f"{number}-{index}"
                    request_id = await caller.submit(idempotency_key=key, worker_hint=key)
                    await caller.until_ended(request_id)
                case 1:
                    request_id = await caller.submit(priority=types_pb2.PRIORITY_LOW)
                    cancel = inference_pb2.CancelRequest(request_id=request_id)
                    await caller.inference.Cancel(cancel)
                case 2:
                    wrong = submission(input_json='{"prompt": 5}', accept_invalid_input=True)
                    await caller.inference.Submit(wrong)
                case _:
                    await caller.inference.Run(submission())

    await asyncio.gather(*(one(index) for index in range(ROUND)))


def rss_bytes(process: SchedulerProcess) -> int:
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmRSS" in line)
