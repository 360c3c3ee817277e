"""A way to a server that breaks on one side only, as a network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class OneSidedBreak:
    """Forwards connections to `target` from a port of its own until `sever` hangs up on the callers
    and leaves the server believing that they are there."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._callers: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._callers.append(caller)
                self._servers.append(server)
                for source, sink in ((caller, server), (server, caller)):
                    self._start(_pump, source, sink)

    def sever(self) -> None:
        for caller in self._callers:
            with contextlib.suppress(OSError):  # it was severed before
                caller.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.sever()
        self._listener.shutdown(socket.SHUT_RDWR)
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._callers, *self._servers):
            each.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while received := source.recv(65536):
            sink.sendall(received)
