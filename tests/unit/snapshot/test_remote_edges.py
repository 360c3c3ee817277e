"""Reading from elsewhere at the edges: connections that went idle, descriptors after an error."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quickthaw.snapshot.remote import RemoteSettings
from quickthaw.snapshot.remote.http import HttpRemote
from quickthaw.snapshot.remote.partial import PartialFile, arriving
from quickthaw.wire.errors import StorageFull

CONNECT_SECONDS = 0.2
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def hangs_up_and_dawdles() -> Iterator[str]:
    """Ends the first connection after its first answer, and thinks long about the second's."""

    def serve() -> None:
        first, _ = listener.accept()
        first.recv(4096)
        first.sendall(ANSWER)
        first.close()
        second, _ = listener.accept()
        second.recv(4096)
        threading.Event().wait(2 * CONNECT_SECONDS)
        second.sendall(ANSWER)
        second.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(30)


def test_a_connection_that_is_made_again_has_all_the_time_to_read() -> None:
    settings = RemoteSettings(connect_seconds=CONNECT_SECONDS, read_seconds=30, retries=0)
    with hangs_up_and_dawdles() as url:
        remote = HttpRemote(url, settings)
        assert remote.read_small("a", 100) == b"{}"
        assert remote.read_small("a", 100) == b"{}"
        remote.close()


def test_a_full_disk_leaves_no_descriptor_of_a_file_that_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: PartialFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PartialFile, "_write_journal", full)
    with pytest.raises(StorageFull), arriving(tmp_path, "d" * 64, (0, 10)):
        pass
    mine = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [path for path in mine if path.startswith(str(tmp_path))]
