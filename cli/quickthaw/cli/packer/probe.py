"""`python -m quickthaw.cli.packer.probe`: stands behind the walls of a packing process, and tries
to reach what is in front of them.

One JSON object on stdin: `rooms`, and `secrets`, the paths to try. One on stdout: the `walls` that
were put up, which secrets could be `opened`, a path that is `unreachable` and must not be, and
whether it still `has_network`.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from pathlib import Path

from quickthaw.cli.packer.isolation import confine, libraries
from quickthaw.cli.packer.order import rooms_from


def main() -> None:
    question = json.loads(sys.stdin.read())
    rooms = rooms_from(question["rooms"])
    needed = [*rooms.readable, *rooms.writable, *map(str, libraries())]
    walls = confine(rooms)
    opened = [path for path in question["secrets"] if can_open(Path(path))]
    unreachable = next((path for path in needed if is_closed(Path(path))), "")
    answer = {
        "walls": walls,
        "opened": opened,
        "unreachable": unreachable,
        "has_network": has_network(),
    }
    print(json.dumps(answer), flush=True)


def can_open(path: Path) -> bool:
    """Whether a file can be read, or a folder listed or written to."""
    try:
        if not path.is_dir():
            path.read_bytes()
            return True
    except OSError:
        return False
    for attempt in (os.listdir, _write_in):
        try:
            attempt(path)
        except OSError:
            continue
        return True
    return False


def has_network() -> bool:
    """Whether this very machine could be reached; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
            each.connect(("127.0.0.1", 9))
    except OSError:
        return False
    return True


def _write_in(folder: Path) -> None:
    path = folder / f".{secrets.token_hex(8)}"
    path.touch(exist_ok=False)
    path.unlink()


def is_closed(path: Path) -> bool:
    try:
        if path.is_dir():
            os.listdir(path)
    except OSError:
        return True
    return not os.access(path, os.R_OK) and os.path.lexists(path)


if __name__ == "__main__":
    main()
