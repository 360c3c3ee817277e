"""From a snapshot on disk to a model in the catalog. Imports no tensor library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from quickthaw.cli.errors import UsageFault
from quickthaw.client import (
    Client,
    Component,
    JsonObject,
    Model,
    RunFile,
    UnusedSnapshot,
    default_data_dir,
)
from quickthaw.snapshot import Snapshot, SnapshotStore, locate

if TYPE_CHECKING:
    from quickthaw.cli.session import Session


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


def local_data_dir(session: Session, client: Client) -> Path:
    """Where the platform keeps snapshots. Raises UsageFault if it is not this machine's."""
    data_dir = (session.data_dir or default_data_dir()).expanduser().absolute()
    run_file = RunFile.read(data_dir)
    if run_file is None or run_file.grpc != client.endpoint.target:
        raise UsageFault(
            f"the platform at {client.endpoint.target} is not the one of {data_dir}",
            "name its data directory with --data-dir, or put the snapshot where its workers reach "
            "it and add --in-place",
        )
    return data_dir


@dataclass(frozen=True, slots=True)
class CollectedUnused:
    """What `collect_unused` took away."""

    snapshots: tuple[str, ...]
    freed_bytes: int
    elsewhere: tuple[UnusedSnapshot, ...]
    """Not needed either, but not of this store."""


def collect_unused(
    store: SnapshotStore, unused: Iterable[UnusedSnapshot], *, dry_run: bool = False
) -> CollectedUnused:
    """Removes from `store` what was registered from it, also under a path that it had before, and
    nothing needs; then what no snapshot refers to. Raises FailedPrecondition while something is
    written to the store."""
    mine: list[str] = []
    elsewhere: list[UnusedSnapshot] = []
    for each in unused:
        if not _was_here(each, store):
            elsewhere.append(each)
        elif each.digest in store:
            mine.append(each.digest)
    if dry_run or not mine:
        return CollectedUnused(tuple(mine), _bytes_of(mine, store), tuple(elsewhere))
    for digest in mine:
        store.remove(digest)
    return CollectedUnused(tuple(mine), store.gc().bytes, tuple(elsewhere))


def _was_here(unused: UnusedSnapshot, store: SnapshotStore) -> bool:
    """A data directory may have been moved, or restored elsewhere: then the catalog names a folder
    that is gone, and the snapshot is here."""
    if "://" in unused.uri:
        return False
    place = Path(unused.uri)
    return place.resolve() == store.root.resolve() or (
        not place.is_dir() and unused.digest in store
    )


def _bytes_of(digests: list[str], store: SnapshotStore) -> int:
    """What only these snapshots need of a store."""
    files = {digest: store.open(digest).manifest.files() for digest in store}
    kept = {file.path for digest in files if digest not in digests for file in files[digest]}
    gone = {file.path: file.nbytes for digest in digests for file in files[digest]}
    return sum(size for path, size in gone.items() if path not in kept)
