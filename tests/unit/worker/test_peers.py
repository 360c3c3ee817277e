"""What a worker hands to others, to whom, and how much of it at once."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from quickthaw.wire.errors import AddressInUse
from quickthaw.wire.process import Address
from quickthaw.worker.peers import PIECE_BYTES, PeerServer
from support.patience import PATIENCE_SECONDS
from support.peer_shelves import DATA, DIGEST, HEADER, LEAVING, PINNED, ShelfOfOne


@pytest.fixture
def shelf(tmp_path: Path) -> ShelfOfOne:
    return ShelfOfOne(tmp_path)


@pytest.fixture
def server(shelf: ShelfOfOne) -> Iterator[PeerServer]:
    with closing(PeerServer(Address("127.0.0.1", 0), streams_max=4, timeout_seconds=5)) as server:
        server.shelf = shelf
        yield server


def ask(
    server: PeerServer, path: str, *, token: str | None = None, asked: str = ""
) -> tuple[int, bytes, dict[str, str]]:
    headers = {"Authorization": f"Bearer {server.token if token is None else token}"}
    if asked:
        headers["Range"] = asked
    with closing(
        http.client.HTTPConnection(server.address.host, server.address.port)
    ) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.headers)


def test_a_file_is_sent_whole_and_in_ranges(server: PeerServer) -> None:
    assert ask(server, f"/blobs/{DIGEST}")[:2] == (200, DATA)
    status, content, headers = ask(server, f"/blobs/{DIGEST}", asked="bytes=1000-1009")
    assert (status, content) == (206, DATA[1000:1010])
    assert headers["Content-Range"] == f"bytes 1000-1009/{len(DATA)}"
    assert ask(server, f"/blobs/{DIGEST}", asked=f"bytes={len(DATA) - 5}-")[1] == DATA[-5:]
    assert ask(server, f"/blobs/{DIGEST}", asked=f"bytes={len(DATA)}-")[0] == 416
    assert ask(server, f"/snapshots/{DIGEST}/manifest.json")[:2] == (200, b"{}")


def test_what_is_in_memory_is_sent_with_its_header_before_it(
    server: PeerServer, shelf: ShelfOfOne
) -> None:
    path = f"/components/{PINNED}.safetensors"
    assert ask(server, path)[:2] == (200, HEADER + DATA)
    for _ in range(0, len(DATA), PIECE_BYTES):  # the last one soon after all has arrived
        assert shelf.let_go.acquire(timeout=PATIENCE_SECONDS), "each piece is held on its own"
    assert ask(server, path, asked="bytes=4000-4999")[1] == (HEADER + DATA)[4000:5000]
    assert ask(server, path, asked="bytes=5000000-5999999")[1] == (HEADER + DATA)[5000000:6000000]
    assert ask(server, path, asked="bytes=0-9")[1] == HEADER[:10]


def test_what_leaves_memory_in_the_middle_ends_the_connection(server: PeerServer) -> None:
    with pytest.raises(http.client.IncompleteRead):
        ask(server, f"/components/{LEAVING}.safetensors")


@pytest.mark.parametrize("token", ["", "wrong", "Ünsinn", " "])
def test_nobody_without_the_token_gets_anything(server: PeerServer, token: str) -> None:
    for path in (f"/blobs/{DIGEST}", "/", f"/snapshots/{DIGEST}/manifest.json"):
        assert ask(server, path, token=token)[:2] == (401, b"")


def test_each_server_has_a_token_of_its_own(server: PeerServer) -> None:
    with closing(PeerServer(Address("127.0.0.1", 0))) as other:
        assert other.token != server.token
        assert len(other.token) >= 40


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/blobs/",
        "/blobs/../secret",
        f"/blobs/{DIGEST}/../secret",
        f"/blobs/%2e%2e/{DIGEST}",
        f"/blobs/{DIGEST.upper()}",
        f"/blobs/{DIGEST}?x",
        f"/components/{DIGEST}",
        f"/components/{DIGEST}.safetensors/x",
        f"/snapshots/{DIGEST}/",
        "/tmp/x",
        "/.lock",
        "http://elsewhere/blobs/" + DIGEST,
    ],
)
def test_nothing_but_names_of_content_leads_anywhere(
    server: PeerServer, tmp_path: Path, path: str
) -> None:
    (tmp_path.parent / "secret").write_text("secret")
    assert ask(server, path)[:2] == (404, b"")


def test_only_reading_is_known(server: PeerServer) -> None:
    with closing(
        http.client.HTTPConnection(server.address.host, server.address.port)
    ) as connection:
        for method in ("PUT", "DELETE", "POST"):
            connection.request(method, f"/blobs/{DIGEST}")
            assert connection.getresponse().read() is not None
            connection.close()
    assert ask(server, f"/blobs/{DIGEST}")[1] == DATA


def test_one_stream_too_many_is_told_to_come_again(server: PeerServer, shelf: ShelfOfOne) -> None:
    for _ in range(3):
        server.streams.acquire()  # three of four are busy
    shelf.wait.clear()
    got: list[tuple[int, bytes, dict[str, str]]] = []
    path = f"/components/{PINNED}.safetensors"
    first = threading.Thread(target=lambda: got.append(ask(server, path)))
    first.start()
    assert shelf.reached.wait(30)
    status, _, headers = ask(server, path)
    assert (status, headers["Retry-After"]) == (503, "1")
    shelf.wait.set()
    first.join()
    assert got[0][:2] == (200, HEADER + DATA)


def test_before_there_is_a_shelf_everybody_is_told_to_come_again(server: PeerServer) -> None:
    server.shelf = None
    assert ask(server, f"/blobs/{DIGEST}")[0] == 503


def test_a_taken_port_is_named(server: PeerServer) -> None:
    with pytest.raises(AddressInUse, match=str(server.address.port)):
        PeerServer(server.address)


def test_a_machine_without_threads_to_spare_serves_again_when_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = PeerServer(Address("127.0.0.1", 0), streams_max=1, timeout_seconds=5)
    server.shelf = ShelfOfOne(tmp_path)

    def asked() -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", server.address.port)) as connection:
            headers = {"Authorization": f"Bearer {server.token}"}
            connection.request("GET", f"/snapshots/{DIGEST}/manifest.json", headers=headers)
            return connection.getresponse().status

    with closing(server):
        with monkeypatch.context() as patched:
            patched.setattr(ThreadingHTTPServer, "process_request", no_more_threads)
            for _ in range(8):
                with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                    asked()
        assert asked() == 200


def no_more_threads(*_: object) -> None:
    raise RuntimeError("can't start new thread")
