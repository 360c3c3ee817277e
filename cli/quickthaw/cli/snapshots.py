"""From a snapshot on disk to a model in the catalog. Imports no tensor library."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from quickthaw.client import Component, JsonObject, Model
from quickthaw.snapshot import Snapshot, SnapshotStore, locate


def bring_in(
    source: Path, digest: str | None, store: SnapshotStore, *, mend: bool = False
) -> Snapshot:
    """Copies the snapshot at `source` into `store`, unless it is there; all content is checked.

    `mend` also reads what is there, and replaces what is not intact.

    Raises NotFound, SnapshotInvalid, SnapshotCorrupt, StorageFull, FailedPrecondition (the store is
    being cleaned).
    """
    found = locate(source, digest)
    elsewhere = found.store.root.resolve() != store.root.resolve()
    if found.digest not in store or (mend and elsewhere):
        store.import_(found.store.root, found.digest)
    return store.open(found.digest)


def model_of(
    snapshot: Snapshot,
    model_id: str,
    aliases: tuple[str, ...] = (),
    description: str = "",
    license: str = "",
    uri: str | None = None,
) -> Model:
    """What the catalog is told of a snapshot. Title and licence are its own unless given, and its
    place is its store's folder unless `uri` says where workers fetch it from."""
    manifest = snapshot.manifest
    return Model(
        id=model_id,
        family=manifest.family,
        snapshot_digest=snapshot.digest,
        snapshot_uri=uri or str(snapshot.store.root.absolute()),
        components=tuple(
            Component(part.name, part.digest, part.data_bytes) for part in manifest.components
        ),
        working_bytes=manifest.working_set_bytes,
        # Both sides call a parsed JSON object by a name of their own.
        input_schema=cast("JsonObject", manifest.input_schema),
        aliases=aliases,
        description=description or manifest.title,
        license=license or manifest.licence,
    )
