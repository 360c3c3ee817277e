"""The key files of a data directory and a store that has lost them, or never had them."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import catalog_pb2, fleet_pb2
from quickthaw.wire import errors
from support.fake_worker import FakeWorker
from support.schedulers import Caller, a_model, a_scheduler


async def test_a_new_store_takes_over_the_keys_that_are_there(tmp_path: Path) -> None:
    """After the loss of a store, and after a move to another one."""
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir) as first:
        before = first.admin.key, first.worker_key
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    async with a_scheduler(data_dir, store_url=elsewhere) as second:
        assert (second.admin.key, second.worker_key) == before
        async with FakeWorker(second.address, second.worker_key):
            workers = await second.admin.fleet.ListWorkers(fleet_pb2.ListWorkersRequest())
            assert len(workers.workers) == 1


async def test_a_store_with_keys_takes_none_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_scheduler(tmp_path / "other") as other:
        theirs = other.admin.key
    async with a_scheduler(tmp_path / "data") as first:
        ours = first.admin.key
    (tmp_path / "data" / "admin.key").write_text(theirs)
    caplog.clear()
    with pytest.raises(grpc.aio.AioRpcError, match="key is not valid"):
        async with a_scheduler(tmp_path / "data"):
            pass
    assert ["admin.key" in each.message for each in caplog.records if "not know" in each.message]
    (tmp_path / "data" / "admin.key").write_text(ours)
    async with a_scheduler(tmp_path / "data", models=[a_model()]) as again:
        caller = Caller(again.address, ours)
        assert await caller.catalog.ListModels(catalog_pb2.ListModelsRequest())
        await caller.channel.close()


async def test_a_key_file_without_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "worker.key").write_text("hunter2\n")
    with pytest.raises(errors.SettingsInvalid, match=r"worker\.key holds no key") as caught:
        async with a_scheduler(tmp_path):
            pass
    assert "hunter2" not in caught.value.message
