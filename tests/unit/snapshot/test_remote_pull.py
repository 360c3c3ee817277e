"""Pulling: what travels, what is checked, and what a broken server or a full disk leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.remote import RemoteSettings, open_remote
from quickthaw.snapshot.remote.partial import arriving
from quickthaw.snapshot.remote.pull import Pulled, PullProgress, pull
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SettingsInvalid,
    SnapshotCorrupt,
    SnapshotInvalid,
    StorageFull,
    StoreUnavailable,
    Unavailable,
)
from support.full_disk import no_file_grows_beyond
from support.large_snapshots import MIB, a_large_snapshot, files_of, manifest_of
from support.remote_servers import Asked, Faults, WebServer
from support.snapshots import flip_bit

QUICK = RemoteSettings(
    connect_seconds=2,
    read_seconds=0.3,
    retries=3,
    backoff_seconds=0.001,
    backoff_cap_seconds=0.005,
    parallel=4,
    range_bytes=BLOCK_BYTES,
)
SIZES = (5 * MIB + 777, 22 * MIB + 3)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with one snapshot of nine blocks."""
    root = tmp_path_factory.mktemp("origin")
    return root, a_large_snapshot(root, *SIZES)


def fetch(
    url: str, digest: str, root: Path, settings: RemoteSettings = QUICK, *, mend: bool = False
) -> Pulled:
    with closing(open_remote(url, settings)) as remote:
        return pull(SnapshotStore(root), remote, digest, settings, mend=mend)


def test_what_was_pulled_is_the_same_byte_for_byte(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = origin
    told: list[PullProgress] = []
    with WebServer(root) as server, closing(open_remote(server.url)) as remote:
        pulled = pull(SnapshotStore(tmp_path), remote, digest, QUICK, on_progress=told.append)
    assert files_of(tmp_path) == files_of(root)
    assert list((tmp_path / "tmp").iterdir()) == []
    total = sum(each.nbytes for each in manifest_of(root, digest).files())
    assert (pulled.fetched_bytes, pulled.present_bytes) == (total, 0)
    assert told[0] == PullProgress(0, total)
    assert told[-1] == PullProgress(total, total)
    assert verify(tmp_path, digest).intact


def test_only_files_that_are_missing_travel(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    here = tmp_path / "here"
    SnapshotStore(here).import_(root, digest)
    tuned = a_large_snapshot(tmp_path / "there", SIZES[0], 6 * MIB)
    # The first component is the same one: the same size from the same seed.
    with WebServer(tmp_path / "there") as server:
        pulled = fetch(server.url, tuned, here)
        asked = {each.path for each in server.asked}
    second = manifest_of(here, tuned).components[1]
    assert asked == {
        f"/snapshots/{tuned}/manifest.json",
        f"/components/{second.digest}.safetensors",
    }
    assert pulled.fetched_bytes == second.file_bytes
    assert sorted(SnapshotStore(here)) == sorted([digest, tuned])


def test_mending_replaces_what_is_damaged_here(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    SnapshotStore(tmp_path).import_(root, digest)
    part = manifest_of(root, digest).components[1]
    flip_bit(SnapshotStore(tmp_path).component_path(part.digest), 9 * MIB)
    with WebServer(root) as server:
        assert fetch(server.url, digest, tmp_path).fetched_bytes == 0
        assert fetch(server.url, digest, tmp_path, mend=True).fetched_bytes == part.file_bytes
    assert verify(tmp_path, digest).intact


def test_a_connection_that_is_cut_is_gone_on_with_where_it_broke(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = origin
    with WebServer(root, Faults(cut_all_after=3 * MIB)) as server:
        fetch(server.url, digest, tmp_path)
        sent = server.sent_bytes
    assert files_of(tmp_path) == files_of(root)
    assert sent <= sum(len(content) for content in files_of(root).values()) * 1.02


def test_a_server_that_stalls_is_asked_again(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    with WebServer(root, Faults(stall_requests={3, 6})) as server:
        fetch(server.url, digest, tmp_path)
    assert files_of(tmp_path) == files_of(root)


def test_a_server_that_is_down_is_given_up_in_bounded_tries(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = origin
    with (
        WebServer(root, Faults(status=503)) as server,
        pytest.raises(StoreUnavailable, match="HTTP 503; gave up after 4 tries"),
    ):
        fetch(server.url, digest, tmp_path)
    assert len(server.asked) == 4
    with pytest.raises(StoreUnavailable, match="nobody listens there"):
        fetch(server.url, digest, tmp_path)


def test_one_wrong_byte_on_the_way_is_fetched_again(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = origin
    damaged: list[Asked] = []

    def flip(asked: Asked) -> bool:
        first = asked.start > 4 * BLOCK_BYTES and not damaged
        if first:
            damaged.append(asked)
        return first

    with WebServer(root, Faults(flip=flip)) as server:
        fetch(server.url, digest, tmp_path)
        assert server.ranges_of(damaged[0].path).count(damaged[0].start) == 2
    assert files_of(tmp_path) == files_of(root)


def test_a_server_with_wrong_bytes_is_named_with_the_place(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = origin
    with (
        WebServer(root, Faults(flip=lambda asked: asked.start > 4 * BLOCK_BYTES)) as server,
        pytest.raises(
            SnapshotCorrupt, match=r"components/.* the bytes from \d+ on differ"
        ) as raised,
    ):
        fetch(server.url, digest, tmp_path)
    assert server.url in raised.value.message
    assert digest not in SnapshotStore(tmp_path)
    assert list((tmp_path / "components").glob("*")) == [
        SnapshotStore(tmp_path).component_path(part.digest)
        for part in manifest_of(root, digest).components
        if part.file_bytes < 4 * BLOCK_BYTES
        and SnapshotStore(tmp_path).component_path(part.digest).exists()
    ]


def test_an_answer_to_another_range_is_refused(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    with (
        WebServer(root, Faults(wrong_range=True)) as server,
        pytest.raises(StoreUnavailable, match="answered with another range"),
    ):
        fetch(server.url, digest, tmp_path)


def test_a_file_that_is_too_short_is_refused(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    part = manifest_of(root, digest).components[1]
    copy = tmp_path / "short"
    SnapshotStore(copy).import_(root, digest)
    os.truncate(SnapshotStore(copy).component_path(part.digest), 9 * MIB)
    with (
        WebServer(copy) as server,
        pytest.raises(SnapshotCorrupt, match=r"ends at byte .* too early"),
    ):
        fetch(server.url, digest, tmp_path / "here")


def test_a_changed_manifest_is_refused(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    copy = tmp_path / "changed"
    SnapshotStore(copy).import_(root, digest)
    flip_bit(SnapshotStore(copy).manifest_path(digest), 100)
    with (
        WebServer(copy) as server,
        pytest.raises(SnapshotCorrupt, match="does not match its digest"),
    ):
        fetch(server.url, digest, tmp_path / "here")


def test_a_file_whose_blocks_match_and_whose_digest_does_not_is_never_kept(
    tmp_path: Path,
) -> None:
    """Block hashes find damage; forgery is what SHA-256 is for."""
    root = tmp_path / "forged"
    true = a_large_snapshot(root, 5 * MIB)
    forged = manifest_of(root, true)
    part = forged.components[0]
    lie = "ab" * 32
    encoded = SnapshotStore(root).manifest_path(true).read_bytes()
    encoded = encoded.replace(part.digest.encode(), lie.encode())
    SnapshotStore(root).component_path(part.digest).rename(SnapshotStore(root).component_path(lie))
    with SnapshotStore(root).writing() as writer:
        digest = writer.add_encoded_manifest(encoded)
    with (
        WebServer(root) as server,
        pytest.raises(SnapshotCorrupt, match="does not match its SHA-256"),
    ):
        fetch(server.url, digest, tmp_path / "here")
    assert files_of(tmp_path / "here").keys() <= {f"blobs/{blob}" for blob in _blobs(root)}
    assert not list((tmp_path / "here" / "tmp").glob(f"{lie}*"))


def _blobs(root: Path) -> list[str]:
    return [path.name for path in (root / "blobs").iterdir()]


def test_a_server_without_ranges_serves_too(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    with WebServer(root, Faults(ranges=False)) as server:
        fetch(server.url, digest, tmp_path)
    assert files_of(tmp_path) == files_of(root)


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (403, PermissionDenied, "refused access"),
        (401, PermissionDenied, "refused access"),
        (404, NotFound, "holds no snapshot"),
        (418, StoreUnavailable, "HTTP 418"),
    ],
)
def test_what_a_server_refuses_is_said_once_and_plainly(
    origin: tuple[Path, str], tmp_path: Path, status: int, error: type[Exception], text: str
) -> None:
    root, digest = origin
    with WebServer(root, Faults(status=status)) as server, pytest.raises(error, match=text):
        fetch(server.url, digest, tmp_path)
    assert len(server.asked) == 1


def test_what_is_no_address_or_digest_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="scheme that is not known"):
        open_remote("ftp://host/folder")
    with pytest.raises(SettingsInvalid, match="credentials") as raised:
        open_remote("https://anna:geheim@host/folder")
    assert "geheim" not in raised.value.message
    with pytest.raises(SettingsInvalid, match="credentials") as raised:
        open_remote("s3://AKIAKEY:geheim@bucket/folder")
    assert "geheim" not in raised.value.message
    with pytest.raises(NotFound, match="no folder"):
        open_remote(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidArgument, match="no snapshot digest"):
        fetch(str(tmp_path), "../../etc/passwd", tmp_path / "here")


def test_a_manifest_over_the_limit_is_not_read(origin: tuple[Path, str]) -> None:
    root, digest = origin
    with (
        WebServer(root) as server,
        closing(open_remote(server.url, QUICK)) as remote,
        pytest.raises(SnapshotInvalid, match="larger than the limit"),
    ):
        remote.read_small(f"snapshots/{digest}/manifest.json", 100)


def test_a_full_disk_is_named_and_what_arrived_is_kept(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = origin
    with WebServer(root) as server:
        with pytest.raises(StorageFull, match=r"free some space"), no_file_grows_beyond(8 * MIB):
            fetch(server.url, digest, tmp_path)
        assert digest not in SnapshotStore(tmp_path)
        fetch(server.url, digest, tmp_path)
    assert files_of(tmp_path) == files_of(root)


def test_more_than_the_disk_has_is_refused_before_a_byte_travels(
    origin: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, digest = origin
    usage = type("Usage", (), {"free": 10 * MIB})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with WebServer(root) as server, pytest.raises(StorageFull, match="bytes are to come"):
        fetch(server.url, digest, tmp_path)
    assert len(server.asked) == 1


PULL = textwrap.dedent(
    """
    import sys
    from quickthaw.snapshot import SnapshotStore
    from quickthaw.snapshot.remote import RemoteSettings, open_remote
    from quickthaw.snapshot.remote.pull import pull
    url, digest, root, parallel = sys.argv[1:]
    settings = RemoteSettings(parallel=int(parallel), range_bytes=4 << 20, read_seconds=60)
    pull(SnapshotStore(root), open_remote(url, settings), digest, settings)
    """
)


def test_after_a_kill_only_the_missing_ranges_travel(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    root, digest = origin
    # The manifest, then one range at a time, the sixth of which is never answered.
    with WebServer(root, Faults(stall_requests={8})) as server:
        child = subprocess.Popen([sys.executable, "-c", PULL, server.url, digest, tmp_path, "1"])
        with server.arrived:
            assert server.arrived.wait_for(lambda: len(server.asked) == 9, 60)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = [(each.path, each.start) for each in server.asked[1:8]]
        fetch(server.url, digest, tmp_path)
        after = [(each.path, each.start) for each in server.asked[10:]]
    assert len(before) == 7
    assert not set(before) & set(after)
    assert files_of(tmp_path) == files_of(root)


def test_a_journal_that_is_ahead_of_the_data_costs_the_damaged_ranges_only(
    origin: tuple[Path, str], tmp_path: Path
) -> None:
    """As after a power cut: the journal says that a range is there, and the disk has zeros."""
    root, digest = origin
    part = manifest_of(root, digest).components[1]
    with WebServer(root, Faults(stall_requests={12})) as server:
        child = subprocess.Popen([sys.executable, "-c", PULL, server.url, digest, tmp_path, "1"])
        with server.arrived:
            assert server.arrived.wait_for(lambda: len(server.asked) == 13, 60)
        child.send_signal(signal.SIGKILL)
        child.wait()
        partial = tmp_path / "tmp" / f"{part.digest}.part"
        lost = part.data_start + BLOCK_BYTES
        with partial.open("r+b") as file:
            file.seek(lost)
            file.write(bytes(BLOCK_BYTES))
        begun = len(server.asked)
        fetch(server.url, digest, tmp_path)
        again = [each.start for each in server.asked[begun:] if part.digest in each.path]
    assert again.count(lost) == 1
    assert len(again) <= 4
    assert files_of(tmp_path) == files_of(root)


def test_a_torn_journal_line_is_passed_over(tmp_path: Path) -> None:
    edges = (0, 10, 20, 30)
    with arriving(tmp_path, "d" * 64, edges) as partial:
        partial.write(0, memoryview(bytes(10)))
        partial.write(1, memoryview(bytes(10)))
    with (tmp_path / f"{'d' * 64}.journal").open("ab") as journal:
        journal.write(b"2")
    with arriving(tmp_path, "d" * 64, edges) as partial:
        assert partial.missing() == [2]
    with arriving(tmp_path, "d" * 64, (0, 15, 30)) as partial:
        assert partial.missing() == [0, 1]  # cut differently, the numbers mean nothing


def test_two_pulls_of_one_file_do_not_write_into_each_other(tmp_path: Path) -> None:
    with (
        arriving(tmp_path / "tmp", "d" * 64, (0, 10)),
        pytest.raises(Unavailable, match="another process is fetching"),
        arriving(tmp_path / "tmp", "d" * 64, (0, 10)),
    ):
        pass


def test_an_error_stops_all_threads(origin: tuple[Path, str], tmp_path: Path) -> None:
    root, digest = origin
    with WebServer(root, Faults(refuse_after=4)) as server, pytest.raises(StoreUnavailable):
        fetch(server.url, digest, tmp_path)
    assert not [each.name for each in threading.enumerate() if each.name.startswith("fetch")]
