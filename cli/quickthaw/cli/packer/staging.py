"""The folder of one deployment while it is packed.

    files/     what was uploaded; the process that packs reads it
    fetched    which of it is whole, with the SHA-256 of each file
    base/      a store with the base alone; read, never written
    store/     what was packed, until the platform's own store has it
    home/      HOME and TMPDIR of the process that packs, new for each
    packed     the digest, once the platform's own store has it

What a try leaves, also one that was killed, the next try of the same deployment on this machine
goes on with: nothing is taken for whole that was not compared with its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quickthaw.cli.packer.isolation import Rooms
from quickthaw.snapshot import Snapshot, SnapshotStore
from quickthaw.wire.errors import QuickthawError, ResourceExhausted

_READABLE_BY_OTHERS = 0o004
_READABLE, _LISTABLE, _PASSABLE = 0o644, 0o755, 0o711


@dataclass(frozen=True, slots=True)
class Staging:
    root: Path
    user: str = ""
    """Who packs; empty for ourselves."""

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def hidden(self) -> tuple[str, ...]:
        """What nobody else needs to know of a path, the longest first."""
        return (str(self.files), str(self.root))

    @property
    def rooms(self) -> Rooms:
        return Rooms(
            readable=(str(self.files), str(self.base)),
            writable=(str(self.store), str(self.home)),
            user=self.user,
        )

    def prepare(self) -> None:
        """Its folders. What is left in `home` could be taken for our own modules."""
        shutil.rmtree(self.home, ignore_errors=True)
        for folder in (self.files, self.base, self.store, self.home):
            folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.root)  # for `prune`
        if self.user:
            entry = pwd.getpwnam(self.user)
            for folder in (self.store, self.home):
                os.chown(folder, entry.pw_uid, entry.pw_gid)
            self.open_up()

    def open_up(self) -> None:
        """Lets who packs read what is here by now, whatever our umask is."""
        if not self.user:
            return
        self.root.chmod(_PASSABLE)
        for top in (self.files, self.base):
            for folder, _, names in os.walk(top):
                os.chmod(folder, _LISTABLE)
                # The base's files are other names of the platform's own.
                for name in names if top == self.files else ():
                    os.chmod(os.path.join(folder, name), _READABLE)

    def check_room(self, bytes_max: int) -> None:
        """Raises ResourceExhausted once what was written by the process that packs is too much."""
        used_bytes = 0
        for top in (self.store, self.home):
            for folder, _, names in os.walk(top):
                for name in names:
                    with suppress(FileNotFoundError):  # it was renamed meanwhile
                        used_bytes += os.lstat(os.path.join(folder, name)).st_blocks * 512
        if used_bytes > bytes_max:
            raise ResourceExhausted(
                f"packing has written {used_bytes} bytes, over the {bytes_max} that it may; deploy "
                "smaller files, or what differs from a base"
            )

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- files ---------------------------------------------------------------------------------

    def holds(self, path: str, file_id: str) -> bool:
        """Whether that upload is in its place, and what it was when it was fetched."""
        line = self._fetched().get(path)
        try:
            with (self.files / path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return False
        return line == [file_id, found]

    def note(self, path: str, file_id: str, digest: str) -> None:
        """`digest`: its SHA-256."""
        _write(self.root / "fetched", json.dumps({**self._fetched(), path: [file_id, digest]}))

    def _fetched(self) -> dict[str, object]:
        try:
            found: object = json.loads((self.root / "fetched").read_text())
        except (OSError, ValueError):
            return {}
        return dict(found) if isinstance(found, dict) else {}

    # ---- snapshots -----------------------------------------------------------------------------

    def bring_base(self, base: Snapshot) -> None:
        """The base's files, at no cost where a second name for them can be had."""
        manifest = base.store.manifest_path(base.digest)
        places = [manifest, *(base.store.root / file.path for file in base.manifest.files())]
        for place in places:
            target = self.base / place.relative_to(base.store.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            # Who packs may not be their owner, and changing their mode would change theirs.
            if self.user and not place.stat().st_mode & _READABLE_BY_OTHERS:
                shutil.copyfile(place, target)
                target.chmod(_READABLE)
                continue
            try:
                os.link(place, target)
            except OSError:  # another file system, or one without links
                shutil.copyfile(place, target)

    def keep(self, digest: str) -> None:
        """What was packed is in the platform's store, and not needed here any more."""
        _write(self.root / "packed", digest)
        for folder in (self.files, self.base, self.store, self.home):
            shutil.rmtree(folder, ignore_errors=True)

    def packed(self, store: SnapshotStore) -> Snapshot | None:
        """What an earlier try has packed, if it is in `store` with all its files."""
        try:
            snapshot = store.open((self.root / "packed").read_text())
        except (OSError, QuickthawError):
            return None
        for file in snapshot.manifest.files():
            path = store.root / file.path
            if not path.is_file() or path.stat().st_size != file.nbytes:
                return None
        return snapshot


def prune(work_dir: Path, now: float, keep_seconds: float) -> None:
    """Removes the folders of deployments that nobody went on with for so long."""
    for entry in work_dir.iterdir():
        if entry.is_dir() and entry.stat().st_mtime < now - keep_seconds:
            shutil.rmtree(entry, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
    partial.replace(path)
