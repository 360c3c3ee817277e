"""One file that may be had in several places: from the best that works, none of them believed.

A place that fails, or sends what its hashes refuse, is left for the next one; what it sent that is
right is kept, to the block. The last place left is never given up for a later range: then its own
error is the answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.remote.base import RangesUnsupported, Remote
from quickthaw.wire.errors import (
    NotFound,
    PermissionDenied,
    QuickthawError,
    SnapshotCorrupt,
    StoreUnavailable,
    Unavailable,
)

logger = logging.getLogger(__name__)

Check = Callable[[memoryview], int]
"""How many of the leading bytes are right; all of them where nothing is known to check against."""

_PASSING = (NotFound, PermissionDenied, Unavailable, SnapshotCorrupt)


def good_blocks(component: Component, start: int) -> Check:
    """Checks data bytes from `start`, a multiple of the block size, against the manifest."""

    def check(content: memoryview) -> int:
        for offset in range(0, content.nbytes, BLOCK_BYTES):
            block = content[offset : offset + BLOCK_BYTES]
            if block_hash(block) != component.block_hash((start + offset) // BLOCK_BYTES):
                return offset
        return content.nbytes

    return check


def unchecked(content: memoryview) -> int:
    """For files without block hashes: their SHA-256 is compared when they are whole."""
    return content.nbytes


class Places:
    """`remotes`: best first, at least one. Thread-safe. `on_fault` is told of each that failed."""

    def __init__(
        self,
        remotes: Sequence[Remote],
        on_fault: Callable[[Remote, QuickthawError], None] = lambda _remote, _error: None,
    ) -> None:
        self._remotes = list(remotes)
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._bytes: dict[str, int] = {}
        self._kind = self._remotes[0].kind

    @property
    def kind(self) -> str:
        """Of the place that most bytes came from so far: `peer` or `remote`."""
        return self._kind

    @property
    def names(self) -> str:
        return ", ".join(remote.name for remote in self._remotes)

    @property
    def told(self) -> str:
        """How the bytes came, for people: `http://a:1 (12 MB), s3://b (3 MB)`."""
        with self._lock:
            sizes = [f"{name} ({size / 1e6:.1f} MB)" for name, size in self._bytes.items()]
        return ", ".join(sizes) or self.names

    @property
    def remotes(self) -> tuple[Remote, ...]:
        """Those that have not failed yet."""
        with self._lock:
            return tuple(self._remotes)

    def fill(self, path: str, start: int, target: memoryview, check: Check) -> None:
        """All of `target`, from byte `start` of the file, checked.

        Raises what the last place raised, or `SnapshotCorrupt` if that sent wrong bytes twice.
        """
        good, again = 0, True
        while True:
            remote = self.remotes[0]
            try:
                good = self._try(remote, path, start, target, good, check)
                if good == target.nbytes:
                    return
                error: QuickthawError = SnapshotCorrupt(
                    f"{remote.name}/{path}: the bytes from {start + good} on differ from the "
                    "manifest; push or pack it again",
                    metadata={"remote": remote.name, "path": path, "offset": str(start + good)},
                )
            except RangesUnsupported as raised:
                error = StoreUnavailable(str(raised), metadata={"remote": remote.name})
                if not self._give_up(remote, error):
                    raise
                continue
            except _PASSING as raised:
                error = raised
                if not isinstance(raised, NotFound | PermissionDenied):
                    good = max(good, _whole_blocks(check(target), target))
            if self._give_up(remote, error):
                continue
            if isinstance(error, SnapshotCorrupt) and again:
                again = False  # it may have been damaged on the way
                continue
            raise error

    def _try(
        self, remote: Remote, path: str, start: int, target: memoryview, good: int, check: Check
    ) -> int:
        count = remote.read_into(path, start + good, target[good:])
        good += count
        if good < target.nbytes:
            raise SnapshotCorrupt(
                f"{remote.name}/{path}: the file ends at byte {start + good}, too early; push or "
                "pack it again",
                metadata={"remote": remote.name, "path": path, "offset": str(start + good)},
            )
        right = check(target)
        with self._lock:
            self._bytes[remote.name] = self._bytes.get(remote.name, 0) + count
            if self._bytes[remote.name] == max(self._bytes.values()):
                self._kind = remote.kind
        return right

    def _give_up(self, remote: Remote, error: QuickthawError) -> bool:
        """True if there is another place to ask from now on."""
        with self._lock:
            if remote not in self._remotes:
                return True  # another thread has met the same
            if len(self._remotes) == 1:
                return False
            self._remotes.remove(remote)
        logger.warning("going on without %s: %s", remote.name, error.message)
        self._on_fault(remote, error)
        return True


def _whole_blocks(good: int, target: memoryview) -> int:
    """Nothing is known of a place's bytes where there is nothing to check them against."""
    return good if good < target.nbytes else 0
