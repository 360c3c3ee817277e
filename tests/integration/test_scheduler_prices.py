"""The price table of a running scheduler: taken over when it changes, refused when it is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

import httpx
import pytest

from quickthaw.scheduler.scheduler import start
from quickthaw.v1 import catalog_pb2, types_pb2
from support.fake_worker import FakeWorker
from support.platform import until
from support.schedulers import FAST, Caller, a_model, settings_for

LIMITS = dataclasses.replace(FAST, lease_ms=10_000, meter_lease_ms=400)

TABLE = """\
version = "{version}"
default_rate_nanodollars_per_second = {rate}

[models."test/tiny"]
{tiny}
"""


async def test_a_changed_price_table_is_taken_over_and_a_bad_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "prices.toml"

    def write(version: str, rate: object, tiny: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(TABLE.format(version=version, rate=rate, tiny=tiny))
        os.replace(new, path)

    write("1", 1_000, "rate_nanodollars_per_second = 5_000")
    limits = dataclasses.replace(LIMITS, prices_check_ms=20)
    settings = dataclasses.replace(settings_for(tmp_path / "data", limits=limits), prices=path)
    scheduler = await start(settings)
    admin = Caller(
        str(scheduler.grpc_address), (settings.data_dir / "admin.key").read_text().strip()
    )
    worker_key = (settings.data_dir / "worker.key").read_text().strip()
    try:
        await admin.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        async with FakeWorker(admin.address, worker_key, metered_ms=2_000) as worker:
            early = await admin.submit()
            assign = await worker.next_assign()
            worker.running(assign.attempt_id)
            write("2", 1_000, 'unit = "image"\nunit_price_nanodollars = 7_000')
            in_force = scheduler.dispatcher.machine.prices
            await until(lambda: in_force().version == "2", "the new table")
            worker.finish(assign)
            # The price was fixed when the interval opened.
            first = (await admin.until_ended(early)).receipt
            assert (first.price_version, first.price_nanodollars) == ("1", 10_000)
            late = await admin.submit(input_json='{"prompt": "x", "num_images": 2}')
            pictures = [types_pb2.Artifact(name=n, content_type="image/png") for n in "ab"]
            assign = await worker.next_assign()
            assert assign.meter_lease_ms == 0
            worker.running(assign.attempt_id)
            worker.finish(assign, artifacts=pictures)
            second = (await admin.until_ended(late)).receipt
            assert (second.price_version, second.price_nanodollars) == ("2", 14_000)
            assert (second.unit, second.micro_units, second.billed_ms) == ("image", 2_000_000, 0)
            write("3", '"much"', "rate_nanodollars_per_second = 5_000")
            await until(lambda: "prices stay as they were" in caplog.text, "the refusal")
            assert "line 2: default_rate_nanodollars_per_second must be" in caplog.text
            assert in_force().version == "2"
            url = f"http://{scheduler.metrics_address}/metrics"
            metrics = await asyncio.to_thread(lambda: httpx.get(url).text)
            assert "quickthaw_price_tables_refused_total 1.0" in metrics
    finally:
        await admin.channel.close()
        await scheduler.stop()
