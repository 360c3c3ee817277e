"""A snapshot from elsewhere into a store on this machine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass

from quickthaw.snapshot.hashes import is_digest
from quickthaw.snapshot.manifest import MANIFEST_BYTES_MAX, Component, Manifest, StoredFile
from quickthaw.snapshot.manifest_json import manifest_digest, parse_manifest
from quickthaw.snapshot.remote.base import Remote, RemoteSettings
from quickthaw.snapshot.remote.fetch import Fetch, Wanted
from quickthaw.snapshot.remote.places import Places
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.writer import is_intact
from quickthaw.wire.errors import InvalidArgument, NotFound, SnapshotCorrupt, StorageFull


@dataclass(frozen=True, slots=True)
class PullProgress:
    """`done_bytes` of `total_bytes` that had to travel; what was here is in neither."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """`fetched_bytes` travelled now; `present_bytes` were here, from before or from a pull that
    was interrupted."""

    digest: str
    fetched_bytes: int
    present_bytes: int


def fetch_manifest(remote: Remote, digest: str) -> bytes:
    """The encoded manifest, matching its digest. Raises `NotFound`, also where nothing of the kind
    is, and `SnapshotCorrupt`."""
    if not is_digest(digest):
        raise InvalidArgument(f"{digest[:80]!r} is no snapshot digest: 64 hex digits, lower case")
    path = f"snapshots/{digest}/manifest.json"
    try:
        encoded = remote.read_small(path, MANIFEST_BYTES_MAX)
    except NotFound as error:
        if error.metadata.get("missing") == "bucket":
            raise
        raise NotFound(
            f"{remote.name} holds no snapshot {digest[:12]}; `quickthaw snapshot ls` lists what "
            "a bucket or folder holds",
            metadata={"remote": remote.name},
        ) from error
    if manifest_digest(encoded) != digest:
        raise SnapshotCorrupt(
            f"{remote.name}/{path}: the manifest does not match its digest; push it again",
            metadata={"remote": remote.name, "digest": digest},
        )
    return encoded


def described(manifest: Manifest) -> dict[str, Component]:
    """Components by digest whose file is stored in full, so that their blocks can be checked."""
    return {part.digest: part for part in manifest.components if part.delta is None}


def pull(
    store: SnapshotStore,
    remote: Remote,
    digest: str,
    settings: RemoteSettings | None = None,
    *,
    mend: bool = False,
    on_progress: Callable[[PullProgress], None] = lambda _: None,
) -> Pulled:
    """Brings the snapshot `digest` in; only files that are not here travel, and of those that an
    interrupted pull had begun only the ranges that are missing.

    `mend` reads what is here too, and replaces what is not intact. `on_progress` is called from
    several threads, one call at a time. Raises `NotFound`, `PermissionDenied`, `StoreUnavailable`,
    `SnapshotInvalid`, `SnapshotCorrupt`, `StorageFull`, `FailedPrecondition` and `Unavailable` for
    what another process is fetching; whatever it raises, repeating it goes on where it stopped.
    """
    encoded = fetch_manifest(remote, digest)
    manifest = parse_manifest(encoded, f"{remote.name}/snapshots/{digest}/manifest.json")
    with store.writing() as writer:
        missing = [each for each in manifest.files() if not _is_here(store, each, mend=mend)]
        counted = _Counted(sum(each.nbytes for each in missing), on_progress)
        _check_room(store, missing)
        parts = described(manifest)
        places = Places([remote])
        wanted = [Wanted(each, places, parts.get(each.digest)) for each in missing]
        Fetch(store.root, settings or RemoteSettings(), counted.add).run(wanted)
        if digest not in store:
            writer.add_encoded_manifest(encoded)
    total = sum(each.nbytes for each in manifest.files())
    return Pulled(digest, counted.done_bytes, total - counted.done_bytes)


def _is_here(store: SnapshotStore, stored: StoredFile, *, mend: bool) -> bool:
    path = store.root / stored.path
    if mend:
        return is_intact(path, stored.digest, stored.nbytes)
    return path.is_file() and path.stat().st_size == stored.nbytes


def _check_room(store: SnapshotStore, missing: list[StoredFile]) -> None:
    """Better now than after an hour. Partial files are sparse, so what they have is not in free."""
    wanted = sum(each.nbytes for each in missing)
    for each in missing:
        partial = store.root / "tmp" / f"{each.digest}.part"
        if partial.is_file():
            wanted -= min(each.nbytes, partial.stat().st_blocks * 512)
    free = shutil.disk_usage(store.root).free
    if wanted > free:
        raise StorageFull(
            f"{store.root}: {wanted} bytes are to come and {free} are free; free some space there, "
            "then repeat",
            metadata={"path": str(store.root)},
        )


class _Counted:
    def __init__(self, total_bytes: int, on_progress: Callable[[PullProgress], None]) -> None:
        self.done_bytes = 0
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._lock = threading.Lock()
        on_progress(PullProgress(0, total_bytes))

    def add(self, count: int) -> None:
        with self._lock:
            self.done_bytes += count
            self._on_progress(PullProgress(self.done_bytes, self._total_bytes))
