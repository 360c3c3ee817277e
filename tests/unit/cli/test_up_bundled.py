"""The model that a platform has from its first start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from quickthaw.cli.up.bundled import register
from quickthaw.cli.up.settings import UpSettings
from quickthaw.client import AsyncClient
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.verify import verify
from quickthaw.wire.process import Address

ANY = Address("127.0.0.1", 0)


class Catalog:
    async def register(self, model: Any) -> Any:
        return SimpleNamespace(model=model, changed=False)


async def registered(data_dir: Path) -> str:
    settings = UpSettings(data_dir=data_dir, http=ANY, grpc=ANY, metrics=ANY)
    client = cast("AsyncClient", SimpleNamespace(models=Catalog()))
    (digest,) = await register(settings, client, lambda _: None)
    return digest


@pytest.mark.parametrize("damage", ["manifest", "component"])
async def test_what_was_damaged_of_it_is_mended_at_the_next_start(
    damage: str, tmp_path: Path
) -> None:
    digest = await registered(tmp_path)
    store = SnapshotStore(tmp_path / "snapshots")
    paths = {
        "manifest": store.manifest_path(digest),
        "component": store.component_path(store.open(digest).manifest.components[0].digest),
    }
    paths[damage].write_bytes(b"{}")
    assert await registered(tmp_path) == digest
    assert verify(store.root, digest).intact
