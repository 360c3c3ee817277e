"""Notices what a snapshot must never make a process do: reach out of its folder, or of the process.

Three watchers, because each sees what the others miss: Python's audit events (files opened for
writing, sockets, programs started, pickles), inotify on a folder outside the store (reads by
native code), and the peak of resident memory.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = frozenset(
    {
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "pickle.find_class",
        "urllib.Request",
        "webbrowser.open",
    }
)
_CHANGING = frozenset(
    {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link"}
    | {"os.symlink", "os.truncate", "shutil.rmtree", "shutil.move", "shutil.copyfile"}
)
_IN_ANY_ACCESS = 0x1 | 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200  # read, write, open, move


class Watch:
    """`allowed`: the only folder that may be written to. On while `armed`; not removable."""

    def __init__(self, allowed: Path, canary: Path) -> None:
        self.armed = False
        self.seen: list[str] = []
        self._allowed = f"{allowed}{os.sep}"
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self._inotify, os.fsencode(canary), _IN_ANY_ACCESS) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(canary))
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and not self._may_write(path):
                self.seen.append(f"opened {path!r} for writing")
        elif event in _FORBIDDEN or (
            event in _CHANGING and not self._may_write(arguments[0], arguments[-1])
        ):
            self.seen.append(f"{event} {arguments!r:.200}")

    def _may_write(self, path: object, folder: object = -1) -> bool:
        """`folder`: the descriptor that a relative path starts from, if there is one."""
        if isinstance(path, int):
            return True  # opened before, and seen then
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(os.sep):
            start = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else "."
            text = os.path.join(os.path.realpath(start), text)
        return os.path.normpath(text).startswith(self._allowed) or text == os.devnull

    def take(self) -> list[str]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, []
        try:
            events = os.read(self._inotify, 65536)
        except BlockingIOError:
            return seen
        return [*seen, f"a file outside the store was touched ({len(events)} bytes of events)"]


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def address_space_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def forget_peak() -> None:
    """Makes the next `peak_bytes` start from now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that was resident since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
