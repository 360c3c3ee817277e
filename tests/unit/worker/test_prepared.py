"""What a host prepares for its workers, and what it survives meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.worker.prepared import WorkerProgram


def test_a_store_that_cannot_be_read_now_ends_no_host_and_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_store: SnapshotStore) -> NoReturn:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setenv("QUICKTHAW_KEY", "qt_key")
    program = WorkerProgram(("sd",))
    listed = SnapshotStore.__iter__
    monkeypatch.setattr(SnapshotStore, "__iter__", away)
    program.prepare(("--scheduler", "127.0.0.1:1", "--data-dir", str(tmp_path)))
    assert not program.prepare_more()
    assert "Stale file handle" in caplog.text
    monkeypatch.setattr(SnapshotStore, "__iter__", listed)
    assert program.prepare_more()
