"""What the process that reads a tenant's files goes without: other people's secrets, the network,
more memory than it may have. It has no key, so that a flaw in a library that parses is not one of
the platform."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

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
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


def child_environment(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Of ours only what a Python needs to find its libraries; those that download shall not."""
    kept = {name: environment[name] for name in _KEPT if name in environment}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **offline, "HOME": str(home), "TMPDIR": str(home)}


def leave_network() -> bool:
    """Whether this process now has no network at all. Some systems allow it to nobody; then the
    environment above is what keeps the libraries from it. To be called before threads start."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    with suppress(OSError):
        # The same user as before, or files could not be made any more.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # New credentials end the tie to the parent, see `quickthaw.cli.tether`.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return True


def limit_memory(data_bytes_max: int) -> None:
    """Of what is the process's own; mapped files are the page cache's. And no core dumps, which
    would hold a tenant's weights."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = data_bytes_max if hard == resource.RLIM_INFINITY else min(hard, data_bytes_max)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
