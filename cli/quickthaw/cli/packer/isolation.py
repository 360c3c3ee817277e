"""What the process that reads a tenant's files goes without: other people's secrets and files, the
network, other processes, more memory than it may have. It has no key, so that a flaw in a library
that parses is not one of the platform."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import signal
import sys
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from quickthaw.cli.packer import landlock
from quickthaw.cli.packer.system_calls import refuse_system_calls

_KEPT = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "LANG",
    "LC_ALL",
    "OMP_NUM_THREADS",
)
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_SYSTEM = (
    *("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share", "/lib", "/lib64"),
    *("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system"),
)
"""What a Python with its libraries reads beside them."""


class Wall(StrEnum):
    """One thing that the process cannot do."""

    FILES = "files"
    """Open a file that is not meant for it."""
    NETWORK = "network"
    PROCESSES = "processes"
    """See other processes, or outlive its end."""
    USER = "user"
    """Act as the platform's user."""
    PRIVILEGES = "privileges"
    """Gain any."""
    SYSTEM_CALLS = "system-calls"
    """Make those that reading and writing files needs none of."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """Where the process is at home, and as whom."""

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    user: str = ""
    """Empty for the user that starts it. Another needs root."""


def child_environment(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Of ours only what a Python needs to find its libraries; those that download shall not."""
    kept = {name: environment[name] for name in _KEPT if name in environment}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **offline, "HOME": str(home), "TMPDIR": str(home)}


def confine(rooms: Rooms) -> tuple[Wall, ...]:
    """Puts up every wall that this system has, for good, and says which stand.

    The caller goes on in a new process if it can be the first of its own; what is left of the old
    one ends with the same status. To be called before threads start. Raises OSError or KeyError for
    a user that it cannot become.
    """
    walls: list[Wall] = []
    # Another user may not even see where they are.
    readable = [*libraries(), *map(Path, rooms.readable)]
    writable = [Path("/dev/null"), *map(Path, rooms.writable)]
    if rooms.user:
        become(rooms.user)
        walls.append(Wall.USER)
    if sys.platform != "linux":
        return tuple(walls)
    if leave(_CLONE_NEWNET | _CLONE_NEWPID):
        go_on_alone()
        walls += (Wall.NETWORK, Wall.PROCESSES)
    elif leave_network():
        walls.append(Wall.NETWORK)
    if _stands(_refuse_privileges):
        walls.append(Wall.PRIVILEGES)
        # Both are for those alone who can gain nothing.
        if _stands(lambda: landlock.restrict(readable, writable)):
            walls.append(Wall.FILES)
        if _stands(refuse_system_calls):
            walls.append(Wall.SYSTEM_CALLS)
    return tuple(walls)


def become(user: str) -> None:
    """Raises KeyError for an unknown one, PermissionError unless we are root."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # Else what /proc says of us would be root's, and the maps of `leave` could not be written.
        libc.prctl(_PR_SET_DUMPABLE, 1)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_network() -> bool:
    """Whether this process now has no network at all. Some systems allow it to nobody; then the
    environment above is what keeps the libraries from it. To be called before threads start."""
    return leave(_CLONE_NEWNET)


def leave(namespaces: int) -> bool:
    """Whether we have those of our own now, and are the same user in them."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | namespaces) != 0:
        return False
    with suppress(OSError):
        # The same user as before, or files could not be made any more.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # New credentials end the tie to the parent, see `quickthaw.cli.tether`.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return True


def go_on_alone() -> None:
    """Returns in a new process, the first of its namespace, whose end is that of all it started."""
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):  # nobody handles SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def libraries() -> list[Path]:
    """Where this Python's modules and the libraries that they need are."""
    known = sysconfig.get_paths()
    names = (*sys.path, *(known[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")))
    linked = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    own = str(sysconfig.get_config_var("LIBDIR") or "")
    found = [Path(name) for name in (*names, *linked, own) if name]
    # Where we are started is first on the path of `-m`, and no library.
    return [*(path for path in found if path != Path.cwd()), *map(Path, _SYSTEM)]


def limit_memory(data_bytes_max: int) -> None:
    """Of what is the process's own; mapped files are the page cache's. And no core dumps, which
    would hold a tenant's weights."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = data_bytes_max if hard == resource.RLIM_INFINITY else min(hard, data_bytes_max)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _refuse_privileges() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _stands(put_up: Callable[[], None]) -> bool:
    try:
        put_up()
    except OSError:
        return False
    return True
