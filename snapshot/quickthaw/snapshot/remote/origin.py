"""Snapshots that start from elsewhere: known before their weights are here.

`begin` fetches a manifest and the small files (tokenizers, deltas); the weights stay where they are
until a load streams them into the slab. The manifest enters the store only when everything is on
its disk (`behind.py`), so that a snapshot in the store is always complete.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from quickthaw.snapshot.copiers import OpenComponent, Source, open_file
from quickthaw.snapshot.hashes import sha256_hex
from quickthaw.snapshot.manifest import Component, Manifest, StoredFile
from quickthaw.snapshot.manifest_json import parse_manifest
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.remote.base import RangesUnsupported, Remote, RemoteSettings
from quickthaw.snapshot.remote.fetch import Fetch, Wanted
from quickthaw.snapshot.remote.places import Places
from quickthaw.snapshot.remote.pull import described, fetch_manifest
from quickthaw.snapshot.remote.source import ReadAhead, RemoteSource, component_path
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.wire.errors import NotFound, QuickthawError, SnapshotCorrupt, Unavailable

ARRIVING_MAX = 256
"""Snapshots that are known and not complete; the oldest is forgotten, and begun again if asked."""

FAILED_MAX = 1024
LOOK_SECONDS = 0.1
"""Between two looks at whether another process has brought a file."""

OnFault = Callable[[Remote, QuickthawError], None]


@dataclass(frozen=True, slots=True)
class Arriving:
    """A snapshot whose files are not all here. `places`: remotes by component, best first."""

    snapshot: Snapshot
    encoded: bytes
    places: Mapping[str, tuple[Remote, ...]]
    headers: dict[str, bytes]
    """First bytes of component files, as far as they were fetched."""


class RemoteOrigin:
    """An `Origin` for the loader of one store. Thread-safe. `on_fault` is told of each place that
    failed or sent wrong bytes, and was left for the next one."""

    def __init__(
        self,
        store: SnapshotStore,
        settings: RemoteSettings | None = None,
        *,
        on_fault: OnFault = lambda _remote, _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.settings = settings or RemoteSettings()
        self.on_fault = on_fault
        self._ahead = ReadAhead(self.settings)
        self._lock = threading.Lock()
        self._arriving: OrderedDict[str, Arriving] = OrderedDict()
        self._of_component: dict[str, str] = {}
        """Component digest to the snapshot that it was begun for last."""
        self._refused: dict[str, SnapshotCorrupt] = {}
        self.in_memory: Callable[[str], bool] = lambda _digest: False
        """Whether a component is in a tier above the disk, so that nothing of it is read ahead."""
        self._clock = clock
        self._failed_at: dict[str, float] = {}
        """Places by name that failed or lied: passed over for a while if there are others."""

    def close(self) -> None:
        self._ahead.close()

    # ---- what is on its way --------------------------------------------------------------------

    def begin(
        self,
        digest: str,
        remotes: Sequence[Remote],
        peers: Mapping[str, Sequence[Remote]] | None = None,
    ) -> Snapshot:
        """Learns where a snapshot's files are, and fetches what is small. The same again, with
        other places, is how they are kept up to date.

        `remotes`: places that have all of it, best first; `peers`: more places of single
        components, better than those. Raises as `pull` does.
        """
        peers = peers or {}
        every = _distinct([*(each for some in peers.values() for each in some), *remotes])
        with self._lock:
            known = self._arriving.get(digest)
        if known is not None:
            snapshot, encoded = known.snapshot, known.encoded
        elif digest in self._store:
            snapshot, encoded = self._store.open(digest), b""
        else:
            encoded = _first_that_has(every, lambda remote: fetch_manifest(remote, digest))
            manifest = parse_manifest(encoded, f"the manifest of snapshot {digest}")
            snapshot = Snapshot(digest, manifest, self._store)
        self._fetch_small(snapshot.manifest, every)
        places = {
            part.digest: tuple(_distinct([*peers.get(part.digest, ()), *remotes]))
            for part in snapshot.manifest.components
        }
        headers = {} if known is None else known.headers
        self._keep(Arriving(snapshot, encoded, places, headers))
        return snapshot

    def _keep(self, arriving: Arriving) -> None:
        digest = arriving.snapshot.digest
        with self._lock:
            self._arriving[digest] = arriving
            self._arriving.move_to_end(digest)
            self._of_component |= dict.fromkeys(arriving.places, digest)
            while len(self._arriving) > ARRIVING_MAX:
                gone, _ = self._arriving.popitem(last=False)
                self._forget_components(gone)

    def arrived(self, digest: str) -> None:
        """All of the snapshot is in the store."""
        with self._lock:
            if self._arriving.pop(digest, None) is not None:
                self._forget_components(digest)

    def _forget_components(self, digest: str) -> None:
        gone = [part for part, owner in self._of_component.items() if owner == digest]
        for part in gone:
            del self._of_component[part]

    def arriving(self, digest: str) -> Arriving | None:
        with self._lock:
            return self._arriving.get(digest)

    def refuse(self, digest: str, error: SnapshotCorrupt) -> None:
        """The component's content is not what its name says: it is not fetched again."""
        with self._lock:
            self._refused[digest] = error

    def _fetch_small(self, manifest: Manifest, remotes: Sequence[Remote]) -> None:
        """Everything but the components that can be streamed: what is put together from a delta
        needs its base on the disk."""
        streamed = {component_path(part.digest) for part in manifest.components}
        streamed -= {component_path(base) for base in _bases(manifest, self._store)}
        places = Places(self._trusted(remotes), self._fault)
        parts = described(manifest)
        self._fetch(
            Wanted(each, places, parts.get(each.digest))
            for each in manifest.files()
            if each.path not in streamed
        )

    def _fetch(self, files: Iterable[Wanted]) -> None:
        """To the disk. What another process of this machine is bringing there is waited for."""
        give_up = self._clock() + self.settings.retry_seconds
        missing = list(files)
        while missing := [
            each for each in missing if not (self._store.root / each.stored.path).is_file()
        ]:
            try:
                with self._store.writing():
                    Fetch(self._store.root, self.settings, lambda _: None).run(missing)
            except Unavailable as error:
                if "busy" not in error.metadata or self._clock() >= give_up:
                    raise
                time.sleep(LOOK_SECONDS)

    # ---- the loader's port ---------------------------------------------------------------------

    def header(self, component: Component) -> bytes | None:
        """Raises `SnapshotCorrupt` if every place has another one."""
        if (arriving := self._owner(component)) is None or component.delta is not None:
            return None
        if (known := arriving.headers.get(component.digest)) is not None:
            return known
        raw = memoryview(bytearray(component.data_start))
        path = component_path(component.digest)

        def check(head: memoryview) -> int:
            return head.nbytes if sha256_hex(head) == component.header_digest else 0

        places = self._places(arriving, component)
        try:
            places.fill(path, 0, raw, check)
        except RangesUnsupported:
            self._fetch_whole(component, places)
            with (self._store.component_path(component.digest)).open("rb") as file:
                return file.read(component.data_start)
        arriving.headers[component.digest] = bytes(raw)
        return bytes(raw)

    def open(self, component: Component, others: OpenComponent) -> Source | None:
        if (arriving := self._owner(component)) is None or component.delta is not None:
            return None
        self.header(component)  # also finds out whether ranges can be had
        path = self._store.component_path(component.digest)
        if path.is_file():
            return open_file(path, component.data_start, component.file_bytes)
        places = self._places(arriving, component)
        following = self._following(arriving, component)

        def read_ahead() -> None:
            if following is not None:
                self._ahead.begin(following, self._places(arriving, following), component.digest)

        return RemoteSource(component, places, self.settings, self._ahead, read_ahead)

    def _owner(self, component: Component) -> Arriving | None:
        with self._lock:
            if (error := self._refused.get(component.digest)) is not None:
                raise SnapshotCorrupt(error.message, metadata=error.metadata)
            owner = self._of_component.get(component.digest)
            arriving = self._arriving.get(owner) if owner is not None else None
        return arriving if arriving is not None and arriving.places[component.digest] else None

    def _places(self, arriving: Arriving, component: Component) -> Places:
        return Places(self._trusted(arriving.places[component.digest]), self._fault)

    def _fault(self, remote: Remote, error: QuickthawError) -> None:
        if isinstance(error, Unavailable | SnapshotCorrupt):
            with self._lock:
                self._failed_at[remote.name] = self._clock()
                if len(self._failed_at) > FAILED_MAX:
                    del self._failed_at[next(iter(self._failed_at))]
        self.on_fault(remote, error)

    def _trusted(self, remotes: Sequence[Remote]) -> Sequence[Remote]:
        """Without those that failed lately, but never nobody."""
        since = self._clock() - self.settings.avoid_seconds
        with self._lock:
            kept = [each for each in remotes if self._failed_at.get(each.name, since) <= since]
        return kept or remotes[-1:]

    def _following(self, arriving: Arriving, component: Component) -> Component | None:
        """The next component in load order that has to come from afar as well."""
        parts = list(arriving.snapshot.manifest.components)
        after = [each.digest for each in parts].index(component.digest) + 1
        for part in parts[after:]:
            here = self.in_memory(part.digest) or self._store.holds(part)
            if part.delta is None and not here and part.digest != component.digest:
                return part
        return None

    def _fetch_whole(self, component: Component, places: Places) -> None:
        """To the disk first, from a server that sends files only as a whole."""
        stored = StoredFile(
            component_path(component.digest), component.digest, component.file_bytes
        )
        self._fetch([Wanted(stored, places, component)])


def _bases(manifest: Manifest, store: SnapshotStore) -> set[str]:
    """Components that must be files because a delta that is not assembled here builds on them."""
    return {
        part.delta.base
        for part in manifest.components
        if part.delta is not None and not store.component_path(part.digest).is_file()
    }


def _distinct(remotes: Sequence[Remote]) -> list[Remote]:
    """Each place once: one that fails would only fail again."""
    return list({remote.name: remote for remote in reversed(remotes)}.values())[::-1]


def _first_that_has(remotes: Sequence[Remote], ask: Callable[[Remote], bytes]) -> bytes:
    """Raises what the last one raised: that is where the snapshot is said to be."""
    for remote in remotes[:-1]:
        try:
            return ask(remote)
        except QuickthawError:
            continue
    if not remotes:
        raise NotFound("nobody is known to have the snapshot; register the model with its place")
    return ask(remotes[-1])
