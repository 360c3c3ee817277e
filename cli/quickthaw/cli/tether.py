"""Runs a command that dies with its parent: `python -m quickthaw.cli.tether PARENT_PID COMMAND...`.

Linux kills the command when the parent ends, however it ends. The request survives exec, so this
process becomes the command; doing it here and not between fork and exec keeps the parent free to
have threads. On other systems the command simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the kernel knew that we care.
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
