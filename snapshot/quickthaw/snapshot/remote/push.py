"""A snapshot of this machine to a bucket or folder elsewhere, and what such a place holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quickthaw.snapshot.files import open_regular, read_bounded
from quickthaw.snapshot.hashes import is_digest
from quickthaw.snapshot.manifest import MANIFEST_BYTES_MAX, Manifest, StoredFile
from quickthaw.snapshot.manifest_json import parse_manifest
from quickthaw.snapshot.reader import StoreReader
from quickthaw.snapshot.remote.objects import ObjectRemote
from quickthaw.snapshot.remote.pull import PullProgress, fetch_manifest
from quickthaw.wire.errors import QuickthawError, SnapshotCorrupt

_PIECE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pushed:
    digest: str
    sent_bytes: int
    present_bytes: int
    """What the place had already, shared with other snapshots or from an interrupted push."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A snapshot in a remote, or what is wrong with its manifest."""

    digest: str
    manifest: Manifest | None
    problem: str = ""


def push(
    store: StoreReader,
    digest: str,
    remote: ObjectRemote,
    *,
    on_progress: Callable[[PullProgress], None] = lambda _: None,
) -> Pushed:
    """Sends what the remote has not got, the manifest last: a snapshot that can be seen there is
    complete. Every file is compared with its SHA-256 while it is read; one that does not match is
    not put, and `SnapshotCorrupt` raised. Repeating goes on at the file at which it stopped.
    """
    manifest = store.open(digest).manifest
    sizes = [(each, remote.size(each.path)) for each in manifest.files()]
    missing = [each for each, size in sizes if size != each.nbytes]
    total = sum(each.nbytes for each in missing)
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        on_progress(PullProgress(done, total))

    on_progress(PullProgress(0, total))
    for each in missing:
        remote.write(each.path, _checked_pieces(store, each, count))
    path = f"snapshots/{digest}/manifest.json"
    encoded = read_bounded(store.manifest_path(digest), MANIFEST_BYTES_MAX)
    remote.write(path, iter((memoryview(encoded),)))
    present = sum(each.nbytes for each in manifest.files()) - total
    return Pushed(digest, total, present)


def _checked_pieces(
    store: StoreReader, stored: StoredFile, count: Callable[[int], None]
) -> Iterator[memoryview]:
    """The file in pieces. Raises at its end, before the put is completed, if it is not itself."""
    path = store.root / stored.path
    whole = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        held = b""
        while piece := file.read(_PIECE_BYTES):
            whole.update(piece)
            if held:  # the last piece is not let go before all of them are known to be right
                yield memoryview(held)
                count(len(held))
            held = piece
    if whole.hexdigest() != stored.digest:
        raise SnapshotCorrupt(
            f"{path}: the content does not match its name, so it was not pushed; fetch or pack it "
            "again",
            metadata={"path": str(path), "digest": stored.digest},
        )
    yield memoryview(held)
    count(len(held))


def digests_in(remote: ObjectRemote, limit: int = 1000) -> list[str]:
    """The digests of a bucket's or folder's snapshots, sorted, at most `limit`."""
    return [name for name in remote.folders("snapshots") if is_digest(name)][:limit]


def list_snapshots(remote: ObjectRemote, limit: int = 1000) -> list[Listed]:
    """The same, each with its manifest."""
    found: list[Listed] = []
    for digest in digests_in(remote, limit):
        try:
            encoded = fetch_manifest(remote, digest)
            found.append(Listed(digest, parse_manifest(encoded, f"snapshot {digest}")))
        except QuickthawError as error:
            found.append(Listed(digest, None, error.message))
    return found
