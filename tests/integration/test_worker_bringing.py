"""Where a worker takes a snapshot from that the catalog has in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import NotFound
from quickthaw.worker.bringing import import_snapshot, is_held_here
from support.tiny_models import tiny_sd


def test_a_folder_is_the_one_that_is_meant_if_it_holds_the_snapshot(tmp_path: Path) -> None:
    """Two machines that are set up alike have the same path, and not the same snapshots."""
    store = SnapshotStore(tmp_path / "store")
    digest = pack(tiny_sd(0), store)
    assert is_held_here(digest, str(store.root))
    assert is_held_here(digest, f"file://{store.root}")
    (other := tmp_path / "other").mkdir()
    for place in (str(other), str(tmp_path / "none"), "store", "s3://models/quickthaw", ""):
        assert not is_held_here(digest, place), place
    with pytest.raises(NotFound, match="of this machine does not hold the snapshot"):
        import_snapshot(store, digest, str(other))
