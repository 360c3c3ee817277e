"""Outputs that are sent along with their end are stored after it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quickthaw.v1 import fleet_pb2, types_pb2
from quickthaw.wire.blob_store import open_blob_store
from quickthaw.worker.artifacts import ArtifactStore
from quickthaw.worker.attempts import Assignment, OutputFile, RunResult
from quickthaw.worker.convert import assignment_from
from quickthaw.worker.events import Assigned, Revoked
from quickthaw.worker.families.noop import NoopEngine
from quickthaw.worker.machine import AttemptMachine
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.outbox import Outbox
from quickthaw.worker.shell import Shell

DATA = b"a picture"


class DrawsAtOnce(NoopEngine):
    def __init__(self) -> None:
        super().__init__(lambda: 0.0)

    def run_at_once(self, assignment: Assignment) -> tuple[RunResult, float]:
        return RunResult((OutputFile("0.png", "image/png", DATA, 8, 8),), "{}"), 0.0


class Rig:
    def __init__(self, folder: Path, behind_max: int = 2) -> None:
        self.folder = folder
        self.metrics = WorkerMetrics()
        self.outbox = Outbox(16, lambda kind: None)
        self.shell = Shell(
            AttemptMachine(1, 8),
            lambda family: DrawsAtOnce(),
            ArtifactStore(open_blob_store(str(folder)), str(folder), behind_max=behind_max),
            self.outbox,
            self.metrics,
        )

    def assign(self, request_id: str, *, sent_along: bool = True) -> None:
        """The run is over when this returns, and nothing else has had a turn."""
        assign = fleet_pb2.Assign(
            attempt_id=f"{request_id}.1",
            request_id=request_id,
            contents_bytes_max=1000 if sent_along else 0,
        )
        self.shell.post(Assigned(assignment_from(assign), 0))

    async def ends(self) -> dict[str, fleet_pb2.AttemptFinished]:
        """What has been told by now."""
        frame = await self.outbox.take()
        return {
            message.finished.request_id: message.finished
            for message in frame.messages
            if message.HasField("finished")
        }

    def stored(self) -> set[str]:
        return {path.parent.name for path in self.folder.rglob("*.png")}

    def lost(self) -> float | None:
        return self.metrics.registry.get_sample_value("quickthaw_worker_artifacts_lost_total")


async def test_the_end_is_told_before_the_file_is_stored_and_says_where_it_will_be(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.assign("r")
    end = (await rig.ends())["r"]
    assert rig.stored() == set()
    assert end.contents == [DATA]
    await rig.shell.close()
    assert (tmp_path / end.artifacts[0].uri).read_bytes() == DATA


async def test_an_end_without_the_bytes_is_told_when_the_file_is_stored(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.assign("r", sent_along=False)
    await rig.shell.close()
    assert (await rig.ends())["r"].contents == []
    assert rig.stored() == {"r"}


async def test_when_too_many_wait_for_the_store_the_next_end_waits_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path, behind_max=1)
    rig.assign("one")
    rig.assign("two")
    assert set(await rig.ends()) == {"one"}
    await rig.shell.close()
    assert set(await rig.ends()) == {"two"}
    assert rig.stored() == {"one", "two"}
    rig.assign("three")
    assert set(await rig.ends()) == {"three"}
    await rig.shell.close()


async def test_an_answer_whose_copy_cannot_be_stored_is_given_and_its_loss_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    (tmp_path / "artifacts").write_text("a file where a folder must be")
    rig.assign("r")
    end = (await rig.ends())["r"]
    assert end.outcome == types_pb2.REQUEST_STATE_SUCCEEDED
    with caplog.at_level(logging.WARNING):
        await rig.shell.close()
    assert rig.lost() == 1
    assert str(tmp_path) in caplog.text


async def test_a_file_of_what_is_anothers_now_is_not_stored(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.assign("r")
    rig.shell.post(Revoked(("r.1",)))
    await rig.shell.close()
    assert rig.stored() == set()
    assert rig.lost() == 0


async def test_an_upload_that_is_cancelled_before_it_began_waits_for_the_store_no_more(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, behind_max=1)
    for request_id in ("a", "b"):
        rig.assign(request_id)
        rig.shell.post(Revoked((f"{request_id}.1",)))
        await rig.shell.close()
    rig.outbox.clear()
    rig.assign("c")
    assert (await rig.ends())["c"].contents == [DATA]
    assert rig.stored() == set()
    await rig.shell.close()
    assert rig.stored() == {"c"}
