"""A file that arrives in ranges, in any order, and survives being killed at any moment.

    tmp/<digest>.part       the bytes, at their places
    tmp/<digest>.journal    one line for each finished range: its number

A range is written, then its line. After a crash of the process the journal is right. After a crash
of the machine it may be ahead of the data; the SHA-256 of the whole finds that, and `recheck` finds
where.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quickthaw.snapshot.files import full_disk_named, make_folder, sync_directory
from quickthaw.wire.errors import Unavailable

_HASH_BYTES = 4 * 1024 * 1024
_JOURNAL_BYTES_MAX = 16 * 1024 * 1024


class PartialFile:
    """The arriving file `digest` of `nbytes`, cut at `edges` (ascending, from 0 to `nbytes`).

    Range *i* is `edges[i]` to `edges[i + 1]`. Made by `arriving`; thread-safe.
    """

    def __init__(self, folder: Path, digest: str, edges: tuple[int, ...], journal: int) -> None:
        self._path = folder / f"{digest}.part"
        self._journal_path = folder / f"{digest}.journal"
        self._digest = digest
        self.edges = edges
        self._journal = journal
        self._lock = threading.Lock()
        self._data = os.open(
            self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        self._whole = hashlib.sha256()
        self._hashed = 0
        """Ranges from the first on that are in `_whole`."""
        try:
            self._done = self._read_journal()
            self._write_journal()
        except BaseException:
            os.close(self._data)
            raise

    def _read_journal(self) -> set[int]:
        size = min(os.fstat(self._journal).st_size, _JOURNAL_BYTES_MAX)
        # The last piece is empty, or a line that was being written when the process died.
        heading, *lines = os.pread(self._journal, size, 0).split(b"\n")[:-1] or [b""]
        if heading != self._heading:
            return set()
        numbers = {int(line) for line in lines if line.isdigit()}
        there = os.fstat(self._data).st_size
        last = len(self.edges) - 1
        return {each for each in numbers if each < last and self.edges[each + 1] <= there}

    def _write_journal(self) -> None:
        lines = [self._heading, *(b"%d" % each for each in sorted(self._done)), b""]
        os.ftruncate(self._journal, 0)
        os.write(self._journal, b"\n".join(lines))

    @property
    def _heading(self) -> bytes:
        """Other ranges, as another setting cuts them, have other numbers."""
        return hashlib.sha256(repr(self.edges).encode()).hexdigest().encode()

    # ---- ranges --------------------------------------------------------------------------------

    def missing(self) -> list[int]:
        with self._lock:
            return [each for each in range(len(self.edges) - 1) if each not in self._done]

    @property
    def complete(self) -> bool:
        with self._lock:
            return len(self._done) == len(self.edges) - 1

    def write(self, index: int, content: memoryview) -> None:
        """Range `index`, all of it, checked by the caller. Raises `StorageFull`."""
        offset, done = self.edges[index], 0
        with full_disk_named(self._path.parent):
            while done < content.nbytes:
                done += os.pwrite(self._data, content[done:], offset + done)
            os.write(self._journal, b"%d\n" % index)
        with self._lock:
            self._done.add(index)

    def forget(self, indexes: set[int]) -> None:
        """These are to be fetched again."""
        with self._lock:
            self._done -= indexes
            self._write_journal()
            self._whole, self._hashed = hashlib.sha256(), 0

    def read(self, start: int, nbytes: int) -> bytes:
        return os.pread(self._data, nbytes, start)

    def hash_on(self) -> None:
        """Takes what is finished from the start on into the SHA-256: called by one thread, now and
        then, while more arrives, so that little is left to do at the end."""
        while True:
            with self._lock:
                if self._hashed not in self._done:
                    return
                index = self._hashed
            for start in range(self.edges[index], self.edges[index + 1], _HASH_BYTES):
                size = min(_HASH_BYTES, self.edges[index + 1] - start)
                self._whole.update(os.pread(self._data, size, start))
            self._hashed = index + 1

    @property
    def intact(self) -> bool:
        """Whether the whole has the digest of its name. `complete` first, then `hash_on`."""
        return self._whole.hexdigest() == self._digest

    # ---- ends ----------------------------------------------------------------------------------

    def publish(self, target: Path) -> None:
        """Makes the file durable under its real name. It must be complete and intact."""
        with full_disk_named(target.parent):
            os.fsync(self._data)
            make_folder(target.parent)
            self._path.rename(target)
            sync_directory(target.parent)
        self._journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._data)


@contextmanager
def arriving(folder: Path, digest: str, edges: tuple[int, ...]) -> Iterator[PartialFile]:
    """The partial file, new or as an earlier process left it, kept for this one alone.

    Raises `Unavailable`, with `busy` in its metadata, if another process is fetching it into this
    store.
    """
    with full_disk_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        journal = _locked(folder / f"{digest}.journal", digest)
    try:
        with full_disk_named(folder):
            partial = PartialFile(folder, digest, edges, journal)
        try:
            yield partial
        finally:
            partial.close()
    finally:
        os.close(journal)


def _locked(path: Path, digest: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    journal = os.open(path, flags, 0o644)
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had the lock may have finished, and taken the name away with the file.
        if os.fstat(journal).st_nlink == 0:
            raise BlockingIOError
    except BlockingIOError as error:
        os.close(journal)
        raise Unavailable(
            f"another process is fetching {digest[:12]} into {path.parent.parent}; wait for it, "
            "then repeat",
            metadata={"digest": digest, "busy": "fetching"},
        ) from error
    return journal
