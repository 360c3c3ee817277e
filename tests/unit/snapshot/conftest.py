from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import SnapshotStore
from support.snapshots import pack_all


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # More threads only fight over a small machine's cores with such tiny models.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A store that no test may change, and its digests by name."""
    root = tmp_path_factory.mktemp("store")
    return root, pack_all(root)


@pytest.fixture
def digests(packed: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return packed[1]


@pytest.fixture
def store(packed: tuple[Path, dict[str, str]]) -> SnapshotStore:
    return SnapshotStore(packed[0])


@pytest.fixture
def damaged(packed: tuple[Path, dict[str, str]], tmp_path: Path) -> SnapshotStore:
    """A copy of the store for a test to damage."""
    shutil.copytree(packed[0], tmp_path / "damaged")
    return SnapshotStore(tmp_path / "damaged")
