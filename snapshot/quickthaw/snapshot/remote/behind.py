"""The disk tier, written behind a load that came from elsewhere: slab to file, SHA-256 on the way.

It never holds a load up and never fails one. The bytes are taken from the slab in pieces, each held
only while it is written, so that memory can be had back in between; what has left the slab by then
is fetched once more, to the disk. Only now is it known whether the whole has the SHA-256 of its
name: block hashes find damage, not forgery.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from quickthaw.snapshot.files import full_disk_named, new_file, publish
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.manifest import Component, StoredFile
from quickthaw.snapshot.remote.fetch import Fetch, Wanted
from quickthaw.snapshot.remote.origin import Arriving, RemoteOrigin
from quickthaw.snapshot.remote.places import Places
from quickthaw.snapshot.remote.source import component_path
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.wire.errors import QuickthawError, SnapshotCorrupt

logger = logging.getLogger(__name__)

PIECE_BYTES = 8 * 1024 * 1024
SNAPSHOTS_MAX = 64
"""That may wait. One over it is not written; the next load of it asks again."""


class _Gone(Exception):
    """The slab has not got the component any more."""


class _Stopped(Exception):
    """The process is about to end."""


@dataclass(frozen=True, slots=True)
class Told:
    """Whom to tell what, from the writing thread. `forged` gets a component's digest."""

    on_disk: Callable[[Component], None]
    forged: Callable[[str, SnapshotCorrupt], None]
    failed: Callable[[Exception], None]


class WriteBehind:
    """One thread that writes what `submit` names.

    `pinned` gives a component's slab range with one more holder, or None; it may wait until the
    component has arrived.
    """

    def __init__(
        self,
        store: SnapshotStore,
        origin: RemoteOrigin,
        pinned: Callable[[str], HostRange | None],
        told: Told,
    ) -> None:
        self._store = store
        self._origin = origin
        self._pinned = pinned
        self._told = told
        self._waiting: queue.Queue[Arriving | None] = queue.Queue(SNAPSHOTS_MAX)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def submit(self, digest: str) -> None:
        """To be called when the snapshot has been loaded. Nothing to do is fine."""
        arriving = self._origin.arriving(digest)
        if arriving is None:
            return
        try:
            self._waiting.put_nowait(arriving)
        except queue.Full:
            logger.warning("not written to the disk yet: %s; too many wait", digest[:12])

    def flush(self) -> None:
        """Returns when all that was submitted has been dealt with."""
        self._waiting.join()

    def close(self) -> None:
        """Gives up what is not written yet."""
        self._stop.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join()

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            arriving = self._waiting.get()
            try:
                if arriving is not None and not self._stop.is_set():
                    self._keep(arriving)
            except _Stopped:
                pass
            except (QuickthawError, OSError) as error:
                logger.warning("the disk tier was not written: %s", error)
                self._told.failed(error)
            except Exception as error:  # no memory, or a fault of ours: the others are written
                logger.exception("the disk tier was not written")
                self._told.failed(error)
            finally:
                self._waiting.task_done()

    def _keep(self, arriving: Arriving) -> None:
        snapshot = arriving.snapshot
        for part in snapshot.manifest.components:
            if self._store.holds(part):
                continue
            try:
                self._write(arriving, part)
            except SnapshotCorrupt as error:
                self._origin.refuse(part.digest, error)
                self._told.forged(part.digest, error)
                raise
            self._told.on_disk(part)
        with self._store.writing() as writer:
            complete = all(
                (self._store.root / each.path).is_file() for each in snapshot.manifest.files()
            )
            if complete and arriving.encoded:
                writer.add_encoded_manifest(arriving.encoded)
        if complete:
            self._origin.arrived(snapshot.digest)

    def _write(self, arriving: Arriving, part: Component) -> None:
        with self._store.writing():
            try:
                self._copy(part, self._origin.header(part) or b"")
            except _Gone:
                path = component_path(part.digest)
                places = Places(arriving.places[part.digest])
                wanted = Wanted(StoredFile(path, part.digest, part.file_bytes), places, part)
                fetch = Fetch(self._store.root, self._origin.settings, self._check_stop)
                fetch.run([wanted])

    def _check_stop(self, _nbytes: int = 0) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _copy(self, part: Component, header: bytes) -> None:
        target = self._store.component_path(part.digest)
        whole = hashlib.sha256(header)
        with new_file(self._store.root / "tmp") as (file, path):
            file.write(header)
            for start in range(0, part.data_bytes, PIECE_BYTES):
                self._check_stop()
                if (pinned := self._pinned(part.digest)) is None:
                    raise _Gone
                try:
                    piece = pinned.view[start : min(start + PIECE_BYTES, part.data_bytes)]
                    file.write(piece)
                    whole.update(piece)
                    piece.release()
                finally:
                    pinned.release()
            if whole.hexdigest() != part.digest:
                raise SnapshotCorrupt(
                    f"component {part.name}: its blocks match the manifest, but the whole does not "
                    f"match its SHA-256 {part.digest}: the manifest is forged or was packed wrong. "
                    "The component is withdrawn from every tier; pack and push the snapshot again",
                    metadata={"component": part.name, "digest": part.digest},
                )
            with full_disk_named(target.parent):
                publish(file, path, target)
