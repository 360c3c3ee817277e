"""Reading another worker's components by TLS."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from quickthaw.snapshot.remote.base import RemoteSettings
from quickthaw.snapshot.remote.http import HttpRemote
from quickthaw.wire.errors import SettingsInvalid, StoreUnavailable
from quickthaw.wire.own_certificate import OwnCertificate
from quickthaw.wire.process import Address
from quickthaw.worker.arrivals import trusting_peers
from quickthaw.worker.peers import PeerServer
from quickthaw.worker.settings import parse
from support.certificates import TestAuthority
from support.peer_shelves import DATA, DIGEST, HEADER, PINNED, ShelfOfOne

ONCE = RemoteSettings(retries=0, connect_seconds=2, read_seconds=5)


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "pki")


@pytest.fixture
def server(tmp_path: Path, authority: TestAuthority) -> Iterator[PeerServer]:
    pair = authority.pair("worker", host="elsewhere")
    shown = OwnCertificate(pair.certificate, pair.key)
    with closing(PeerServer(Address("127.0.0.1", 0), certificate=shown)) as server:
        server.shelf = ShelfOfOne(tmp_path)
        yield server


def a_reader(server: PeerServer, ca: Path) -> closing[HttpRemote]:
    tls = trusting_peers(ca)
    return closing(HttpRemote(server.url, ONCE, token=server.token, kind="peer", tls=tls))


def read(remote: HttpRemote, path: str, size: int) -> bytes:
    target = bytearray(size)
    assert remote.read_into(path, 0, memoryview(target)) == size
    return bytes(target)


def test_files_and_what_is_in_memory_come_by_tls(
    server: PeerServer, authority: TestAuthority
) -> None:
    assert server.url.startswith("https://")
    with a_reader(server, authority.ca) as remote:
        assert read(remote, f"blobs/{DIGEST}", len(DATA)) == DATA
        whole = HEADER + DATA
        assert read(remote, f"components/{PINNED}.safetensors", len(whole)) == whole


def test_who_is_signed_by_others_is_not_read_from(server: PeerServer, tmp_path: Path) -> None:
    stranger = TestAuthority(tmp_path / "pki", "stranger")
    with (
        a_reader(server, stranger.ca) as remote,
        pytest.raises(StoreUnavailable, match="its certificate is not trusted"),
    ):
        remote.read_small(f"snapshots/{DIGEST}/manifest.json", 10)


def test_both_ends_take_up_a_successor_of_the_authority(
    server: PeerServer, authority: TestAuthority, tmp_path: Path
) -> None:
    with a_reader(server, authority.ca) as remote:
        successor = TestAuthority(tmp_path / "pki", "successor")
        authority.ca.write_bytes(successor.ca.read_bytes())
        successor.pair("worker")
        assert remote.read_small(f"snapshots/{DIGEST}/manifest.json", 10) == b"{}"


def test_who_connects_and_says_nothing_keeps_nobody_waiting(
    server: PeerServer, authority: TestAuthority
) -> None:
    with (
        socket.create_connection((server.address.host, server.address.port)),
        a_reader(server, authority.ca) as remote,
    ):
        assert remote.read_small(f"snapshots/{DIGEST}/manifest.json", 10) == b"{}"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--scheduler", "box:1", "--peers-tls"), "--peers-tls needs --tls-cert"),
        (
            ("--scheduler", "grpcs://box:1", "--peers-tls", "--peers-url", "http://here:1"),
            "https://HOST:PORT with --peers-tls",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(SettingsInvalid, match=re.escape(words)):
        parse(flags, {"QUICKTHAW_KEY": "qt_a_b"})
