"""The log of what the core was told and decided: a replay decides the same; it is bounded."""

from __future__ import annotations

import os
import pickle
import zlib
from pathlib import Path
from random import Random

import pytest

from quickthaw.scheduler.core import commands, events
from quickthaw.scheduler.core.model import (
    Component,
    Digest,
    Job,
    ModelId,
    ModelSpec,
    Outcome,
    RequestId,
    Residency,
    TenantId,
    Tier,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.decision_log import (
    MAGIC,
    SEGMENTS,
    DecisionLog,
    RecordedMachine,
    replay,
    segments,
)
from quickthaw.wire.errors import SettingsInvalid

GIB = 1 << 30
SECRET = "what came out"


def played(log: DecisionLog, steps: int, seed: int = 1) -> None:
    """A busy little fleet: requests come, run, end, one worker comes and goes."""
    machine = RecordedMachine(CoreSettings(), PriceTable("t", 1_000), log)
    chance, now_ms = Random(seed), 1_000_000
    models = [
        ModelSpec(
            ModelId(f"m/{number}"),
            "f",
            f"s{number}",
            "",
            (Component(Digest(f"d{number}"), 3 * GIB), Component(Digest("shared"), GIB)),
            GIB,
        )
        for number in range(6)
    ]
    assigned: list[commands.SendAssign] = []

    def tell(event: events.Event) -> None:
        decided = machine.handle(event, now_ms)
        assigned.extend(each for each in decided if isinstance(each, commands.SendAssign))

    for worker in ("a", "b", "c"):
        spec = WorkerSpec(WorkerId(worker), f"{worker}1", "gpu", 12 * GIB)
        tell(events.WorkerHello(spec, (Residency(Digest("shared"), Tier.DISK, GIB),)))
    for number in range(steps):
        now_ms += chance.randrange(1, 400)
        job = Job(
            RequestId(f"r{number}"),
            TenantId(f"t{number % 3}"),
            chance.choice(models),
            now_ms,
            work_units=chance.uniform(1, 9),
        )
        machine.hold(job, now_ms)
        if number % 17 == 0:
            machine.release_hold(job.request_id)
        else:
            tell(events.RequestJournalled(job))
        if assigned and chance.random() < 0.8:
            done = assigned.pop(chance.randrange(len(assigned)))
            ended = events.AttemptFinished(
                done.worker_id,
                done.attempt_id,
                done.job.request_id,
                Outcome.SUCCEEDED,
                chance.randrange(50, 900),
                payload=SECRET,
            )
            tell(ended)
        for worker in ("a", "b", "c"):
            tell(events.WorkerHeartbeat(WorkerId(worker), number))
        if number % 40 == 39:
            tell(events.Tick())
    log.close()


def test_a_replay_of_every_file_decides_the_same(tmp_path: Path) -> None:
    played(DecisionLog(tmp_path, 160_000, "r", chunk=32), 300)
    found = segments(tmp_path)
    assert len(found) > 1, "one file tells nothing of how the next begins"
    results = [replay(path, "r") for path in found]
    assert all(each.difference is None and not each.cut_off for each in results)
    assert sum(each.decisions for each in results) > 50


def test_a_log_stays_within_its_bound_whatever_happens(tmp_path: Path) -> None:
    bytes_max = 60_000
    played(DecisionLog(tmp_path, bytes_max, "r", chunk=32), 300)
    found = segments(tmp_path)
    assert len(found) == SEGMENTS
    assert replay(found[0], "r").difference is None, "the oldest left is whole too"
    # A file ends with the frame that fills it.
    assert sum(path.stat().st_size for path in found) < 1.5 * bytes_max


def test_a_state_larger_than_its_share_is_not_written_at_every_event(tmp_path: Path) -> None:
    played(DecisionLog(tmp_path, 4_000, "r", chunk=32), 300)
    found = segments(tmp_path)
    assert len(found) == SEGMENTS
    for path in found[:-1]:
        frames = path.read_bytes()[len(MAGIC) :]
        header_bytes = 5 + int.from_bytes(frames[1:5], "little")
        state_bytes = int.from_bytes(frames[header_bytes + 1 : header_bytes + 5], "little")
        assert path.stat().st_size >= 2 * state_bytes
        assert replay(path, "r").events > 10


def test_a_log_has_no_outputs_in_it_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    played(DecisionLog(tmp_path, 10_000_000, "r"), 50)
    (path,) = segments(tmp_path)
    data = path.read_bytes()[len(MAGIC) :]
    bodies = b""
    while data:
        size = int.from_bytes(data[1:5], "little")
        bodies += zlib.decompress(data[5 : 5 + size])
        data = data[5 + size :]
    assert b"r49" in bodies
    assert SECRET.encode() not in bodies
    assert path.stat().st_mode & 0o077 == 0


def test_the_end_that_a_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    played(DecisionLog(tmp_path, 10_000_000, "r", chunk=32), 60)
    (path,) = segments(tmp_path)
    whole = replay(path, "r")
    os.truncate(path, path.stat().st_size - 10)
    cut = replay(path, "r")
    assert cut.cut_off
    assert cut.difference is None
    assert 0 < cut.events < whole.events


def test_a_decision_that_comes_out_otherwise_is_shown(tmp_path: Path) -> None:
    played(DecisionLog(tmp_path, 10_000_000, "r"), 60)
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    frames = []
    place = len(MAGIC)
    while place < len(data):
        size = int.from_bytes(data[place + 1 : place + 5], "little")
        frames.append(
            (data[place : place + 1], zlib.decompress(data[place + 5 : place + 5 + size]))
        )
        place += 5 + size
    changed = bytearray(MAGIC)
    for kind, body in frames:
        if kind == b"E":
            entries = pickle.loads(body)
            number = next(n for n, entry in enumerate(entries) if entry[2])
            entries[number] = (*entries[number][:2], (("assign", "r0.1", "elsewhere "),))
            body = pickle.dumps(entries)
        packed = zlib.compress(body)
        changed += bytes(kind) + len(packed).to_bytes(4, "little") + packed
    path.write_bytes(changed)
    difference = replay(path, "r").difference
    assert difference is not None
    assert difference.recorded == (("assign", "r0.1", "elsewhere "),)
    assert difference.replayed != difference.recorded


def test_a_log_of_another_release_or_of_nothing_is_refused(tmp_path: Path) -> None:
    played(DecisionLog(tmp_path, 10_000_000, "r"), 5)
    (path,) = segments(tmp_path)
    with pytest.raises(SettingsInvalid, match="written by release r"):
        replay(path, "s")
    path.write_bytes(b"something else")
    with pytest.raises(SettingsInvalid, match="no decision log"):
        replay(path, "r")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


# `core.records.attrgetter("__class__")(())`, which would lead on to everything there is.
IMPORTED_BY_THE_CORE = b"cquickthaw.scheduler.core.records\nattrgetter\n(S'__class__'\ntR()tR."


@pytest.mark.parametrize("pickled", [pickle.dumps(Evil()), IMPORTED_BY_THE_CORE])
def test_a_log_that_somebody_else_wrote_runs_no_code(tmp_path: Path, pickled: bytes) -> None:
    path = tmp_path / "decisions-00000001.log"
    packed = zlib.compress(pickled)
    path.write_bytes(MAGIC + b"S" + len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(SettingsInvalid, match="has no place in a decision log"):
        replay(path, "r")


def test_a_disk_that_fails_ends_the_log_and_not_the_scheduler(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    log = DecisionLog(blocked / "decisions", 1_000_000, "r")
    played(log, 20)
    assert not log.wants_state
