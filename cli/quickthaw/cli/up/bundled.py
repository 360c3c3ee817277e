"""The model that is there from the first `up`: `quickthaw/shapes`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from quickthaw.cli.up.settings import UpSettings
from quickthaw.client import AsyncClient, Model

MODEL_ID = "quickthaw/shapes"
ALIASES = ("shapes",)


def find_snapshot() -> Path | None:
    """The folder inside an installed package, or else of the checkout that this file is in."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "bundled" / "shapes"
    in_checkout = here.parents[4] / "models" / "shapes" / "snapshot"
    for folder in (packaged, in_checkout):
        if (folder / "snapshots").is_dir():
            return folder
    return None


async def register(
    settings: UpSettings, client: AsyncClient, report: Callable[[str], None]
) -> tuple[str, ...]:
    """Puts the bundled model into the catalog; the digests that workers should prepare.

    Raises SnapshotInvalid or SnapshotCorrupt if the bundled files are damaged, StorageFull.
    """
    folder = find_snapshot() if settings.bundled_model else None
    if folder is None:
        report("no bundled model here; add one with `quickthaw models add`")
        return ()
    # Copying and hashing some tens of megabytes must not stall what watches the parts.
    model = await asyncio.to_thread(_prepare, settings, folder)
    registered = await client.models.register(model)
    if registered.changed:
        report(f"registered {MODEL_ID}")
    return (registered.model.snapshot_digest,)


def _prepare(settings: UpSettings, folder: Path) -> Model:
    from quickthaw.cli.snapshots import bring_in, model_of
    from quickthaw.snapshot import SnapshotStore

    # Its files here may have been damaged since; an intact copy came with the package.
    snapshot = bring_in(folder, None, SnapshotStore(settings.snapshots), mend=True)
    return model_of(snapshot, MODEL_ID, ALIASES)
