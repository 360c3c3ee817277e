"""Models whose snapshot is elsewhere: where their bytes come from, and how they come to stay.

A load streams what is missing from other workers that have it, or from the place that the catalog
names; the disk tier is written behind it. Content that proves not to be what its name says is
withdrawn from every tier.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from quickthaw.snapshot import Component, Loader, SnapshotStore, Tier
from quickthaw.snapshot.remote import (
    Remote,
    RemoteOrigin,
    RemoteSettings,
    Told,
    WriteBehind,
    open_remote,
)
from quickthaw.snapshot.remote.http import HttpRemote
from quickthaw.wire.errors import NotFound, QuickthawError, SnapshotCorrupt
from quickthaw.wire.tls import Renewed, read_authorities
from quickthaw.worker.attempts import Assignment, Peer
from quickthaw.worker.metrics import WorkerMetrics

logger = logging.getLogger(__name__)

REMOTES_MAX = 256
"""Places whose connections are kept; the one that was asked for the longest time ago goes."""


def peer_settings(settings: RemoteSettings) -> RemoteSettings:
    """Less patience: there are other places, and a peer may well have gone."""
    return replace(
        settings,
        connect_seconds=min(settings.connect_seconds, 2.0),
        read_seconds=min(settings.read_seconds, 5.0),
        retries=min(settings.retries, 1),
    )


def trusting_peers(ca: Path) -> Callable[[], ssl.SSLContext]:
    """What a new connection to a peer trusts: whoever has a certificate of one's own authority,
    under whatever name, for workers are known by their addresses. Raises SettingsInvalid."""

    def make() -> ssl.SSLContext:
        read_authorities(ca)  # says what is wrong with a file that cannot be used
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = False
        return context

    files = Renewed((ca,), make, f"the authority {ca}")

    def trusted() -> ssl.SSLContext:
        files.refresh()
        return files.value

    return trusted


def in_memory(loader: Loader, digest: str) -> bool:
    line = loader.residency().get(digest)
    return line is not None and not line.tiers.isdisjoint({Tier.VRAM, Tier.PINNED})


class Arrivals:
    """For one loader, which must have `origin` among its origins.

    `on_disk` is called when a component has come to the disk, `withdraw` with the digest of one
    that is not what it claims; both from a thread of their own.
    """

    def __init__(
        self,
        store: SnapshotStore,
        loader: Loader,
        origin: RemoteOrigin,
        metrics: WorkerMetrics | None,
        peers_ca: Path | None = None,
    ) -> None:
        """`peers_ca`: who signs the certificates of peers; None for the system's roots. Raises
        SettingsInvalid if it cannot be used."""
        self._loader = loader
        self.origin = origin
        self._metrics = metrics
        self._peer_settings = peer_settings(origin.settings)
        self._peer_tls = None if peers_ca is None else trusting_peers(peers_ca)
        self._lock = threading.Lock()
        self._remotes: OrderedDict[tuple[str, str], Remote] = OrderedDict()
        self.on_disk: Callable[[], None] = lambda: None
        self.withdraw: Callable[[str], None] = lambda _digest: None
        origin.on_fault = self._fault
        origin.in_memory = lambda digest: in_memory(loader, digest)
        told = Told(self._landed, self._forged, self._failed)
        self._behind = WriteBehind(store, origin, loader.pinned, told)

    def begin(self, assignment: Assignment) -> None:
        """Makes the assignment's snapshot loadable, fetching what is small of it.

        Raises `NotFound`, `PermissionDenied`, `StoreUnavailable`, `SnapshotInvalid`,
        `SnapshotCorrupt` or `SettingsInvalid`.
        """
        digest = assignment.snapshot_digest
        peers = {part: [self._peer(peer) for peer in some] for part, some in assignment.whereabouts}
        remotes: list[Remote] = []
        try:
            if assignment.snapshot_uri:
                remotes.append(self._remote(assignment.snapshot_uri))
        except NotFound:  # a folder of another machine, perhaps that of a peer
            if not peers:
                raise
        logger.info("starting snapshot %s from elsewhere", digest[:12])
        self._loader.adopt(self.origin.begin(digest, remotes, peers))

    def loaded(self, digest: str) -> None:
        """A load of the snapshot has begun and will not fail for its bytes' sake, or has ended."""
        self._behind.submit(digest)

    def _peer(self, peer: Peer) -> Remote:
        def connect() -> Remote:
            return HttpRemote(
                peer.url, self._peer_settings, token=peer.token, kind="peer", tls=self._peer_tls
            )

        return self._known((peer.url, peer.token), connect)

    def _remote(self, url: str) -> Remote:
        return self._known((url, ""), lambda: open_remote(url, self.origin.settings))

    def _known(self, key: tuple[str, str], connect: Callable[[], Remote]) -> Remote:
        with self._lock:
            if (remote := self._remotes.pop(key, None)) is None:
                remote = connect()
            self._remotes[key] = remote
            if len(self._remotes) > REMOTES_MAX:
                _, old = self._remotes.popitem(last=False)
                old.close()
            return remote

    # ---- what the library tells ----------------------------------------------------------------

    def _fault(self, remote: Remote, error: QuickthawError) -> None:
        if self._metrics is not None:
            self._metrics.remote_faults.labels(remote.kind, error.reason).inc()

    def _landed(self, part: Component) -> None:
        self._loader.landed(part)
        self.on_disk()

    def _forged(self, digest: str, error: SnapshotCorrupt) -> None:
        logger.error("withdrawn: %s", error.message)
        if self._metrics is not None:
            self._metrics.withdrawn.inc()
        self.withdraw(digest)

    def _failed(self, _error: Exception) -> None:
        if self._metrics is not None:
            self._metrics.write_behind_failures.inc()

    def close(self) -> None:
        """Gives up what is not written yet. Nothing may be loading."""
        self._behind.close()
        self.origin.close()
        with self._lock:
            for remote in self._remotes.values():
                remote.close()
            self._remotes.clear()
