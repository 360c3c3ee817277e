"""How a fleet drives a worker host: JSON lines over a socket pair, with file descriptors beside.

The fleet sends `Start` and `Signal`, the host answers `Started` and `Ended`. A `Start` carries
descriptors: what the worker writes to (stdout, stderr), and its slab. The fleet keeps the slab's
descriptor open, so the memory outlives the worker, and the host as well.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

LINE_BYTES_MAX = 256 * 1024
"""A command line with a thousand digests to prepare is a third of this."""
_RECEIVE_BYTES = 64 * 1024
_DESCRIPTORS_MAX = 16  # in one receive; the kernel never joins those of two messages


@dataclass(frozen=True, slots=True)
class Start:
    """Fork a worker. Comes with three descriptors: stdout, stderr, slab."""

    worker_id: str
    arguments: tuple[str, ...]
    """What would follow `python -m quickthaw.worker`."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to a worker; nothing happens if it has ended."""

    worker_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Started:
    worker_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    worker_id: str
    status: int
    """Exit status; -N for signal N."""


HostMessage: TypeAlias = Start | Signal | Started | Ended

DESCRIPTORS_OF_START = 3
_KINDS: dict[str, type[HostMessage]] = {
    kind.__name__: kind for kind in (Start, Signal, Started, Ended)
}


class HostGone(Exception):
    """The other end was closed, or says what makes no sense."""


def encode(message: HostMessage) -> bytes:
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode() + b"\n"


def send(connection: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> int:
    """How many bytes went out; the descriptors go with the first. Raises as `socket.send`."""
    if descriptors:
        return socket.send_fds(connection, [data], list(descriptors))
    return connection.send(data)


def new_slab(name: str) -> int:
    """A descriptor of an empty memory file, which lives as long as one is open somewhere."""
    if sys.platform == "linux":
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Receiver:
    """Cuts what arrives into messages. Received descriptors belong to the caller."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self._descriptors: deque[int] = deque()
        self._lost = False
        """Whether descriptors were sent that this process has no room for."""

    def receive(self) -> list[tuple[HostMessage, tuple[int, ...]]]:
        """What one read gives, maybe nothing yet. A `Start` whose descriptors this process has no
        room for comes without any. Raises HostGone, and as `socket.recv`."""
        data, descriptors, flags, _address = socket.recv_fds(
            self._connection, _RECEIVE_BYTES, _DESCRIPTORS_MAX
        )
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC:
            self.close()
            self._lost = True
        if not data:
            self.close()
            raise HostGone("the other end was closed")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise HostGone(f"a message is longer than {LINE_BYTES_MAX} bytes")
        return [self._decode(line) for line in lines]

    def close(self) -> None:
        """Closes the descriptors that no message has claimed."""
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _decode(self, line: bytes) -> tuple[HostMessage, tuple[int, ...]]:
        try:
            fields = json.loads(line)
            kind = _KINDS[fields.pop("kind")]
            if kind is Start:
                fields["arguments"] = tuple(fields["arguments"])
            message = kind(**fields)
            if kind is Start and self._lost:
                self._lost = False
                return message, ()
            wanted = DESCRIPTORS_OF_START if kind is Start else 0
            return message, tuple(self._descriptors.popleft() for _ in range(wanted))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise HostGone(f"no message: {line[:200]!r}") from error
