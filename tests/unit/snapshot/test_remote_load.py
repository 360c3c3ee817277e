"""Cold starts from elsewhere: streamed into the slab, written behind, and never from bad bytes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import Component, Loader, SnapshotStore, Tier
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.remote import (
    RemoteOrigin,
    RemoteSettings,
    Told,
    WriteBehind,
    open_remote,
)
from quickthaw.snapshot.remote.base import Remote
from quickthaw.snapshot.remote.http import HttpRemote
from quickthaw.snapshot.remote.source import component_path
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import NotFound, QuickthawError, SnapshotCorrupt, StoreUnavailable
from quickthaw.worker.arrivals import in_memory
from support.large_snapshots import files_of, manifest_of
from support.remote_servers import Asked, Faults, WebServer
from support.snapshots import BUILDERS, MIB, a_loader, draw, flip_bit

QUICK = RemoteSettings(
    connect_seconds=2,
    read_seconds=0.3,
    retries=2,
    backoff_seconds=0.001,
    parallel=3,
    range_bytes=4 * MIB,
)


@dataclass
class Heard:
    on_disk: list[str] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Machine:
    """One that has nothing on its disk."""

    store: SnapshotStore
    origin: RemoteOrigin
    loader: Loader
    behind: WriteBehind
    heard: Heard
    stack: ExitStack

    def remote(self, url: str, kind: str = "remote") -> Remote:
        place = HttpRemote(url, QUICK, kind=kind) if kind == "peer" else open_remote(url, QUICK)
        return self.stack.enter_context(closing(place))

    def begin(self, digest: str, url: str, *peers: str) -> None:
        places = [self.remote(each, "peer") for each in peers]
        remotes = [self.remote(url)]
        known = self.origin.begin(digest, [*places, *remotes])
        self.loader.adopt(known)


@contextmanager
def a_machine(root: Path, *, slab_bytes: int = 24 * MIB) -> Iterator[Machine]:
    store, heard = SnapshotStore(root), Heard()

    def on_fault(remote: Remote, error: QuickthawError) -> None:
        heard.faults.append((remote.kind, error.reason))

    with ExitStack() as stack:
        origin = stack.enter_context(closing(RemoteOrigin(store, QUICK, on_fault=on_fault)))
        loader = stack.enter_context(a_loader(store, origins=(origin,), slab_bytes=slab_bytes))
        origin.in_memory = lambda digest: in_memory(loader, digest)

        def on_disk(part: Component) -> None:
            heard.on_disk.append(part.name)
            loader.landed(part)

        told = Told(on_disk, lambda digest, _: heard.forged.append(digest), heard.failed.append)
        behind = WriteBehind(store, origin, loader.pinned, told)
        stack.callback(behind.close)
        yield Machine(store, origin, loader, behind, heard, stack)


@pytest.fixture
def there(store: SnapshotStore) -> Path:
    return store.root


def test_a_model_starts_from_a_web_server_without_a_pull(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd"]
    with a_machine(tmp_path) as machine, WebServer(there) as server:
        machine.begin(digest, server.url)
        assert {each.source for each in machine.loader.plan(digest).steps} == {Tier.REMOTE}
        assert not list((tmp_path / "components").glob("*"))
        with machine.loader.load(digest) as model:
            picture = draw(model.pipeline)
        assert {(part.source, part.copier) for part in model.report.components} == {
            (Tier.REMOTE, "remote")
        }
        assert server.url in model.report.components[0].why
    with a_loader(SnapshotStore(there)) as local, local.load(digest) as model:
        assert torch.equal(picture, draw(model.pipeline))


def test_the_disk_tier_is_written_behind_and_is_complete(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd"]
    with a_machine(tmp_path) as machine, WebServer(there) as server:
        machine.begin(digest, server.url)
        machine.loader.load(digest).release()
        assert digest not in machine.store
        asked = len(server.asked)
        machine.behind.submit(digest)
        machine.behind.flush()
        assert len(server.asked) == asked, "the bytes are in the slab already"
        assert machine.heard.on_disk == ["text_encoder", "unet", "vae"]
        assert machine.origin.arriving(digest) is None
        tiers = [
            machine.loader.residency()[each.component.digest].tiers
            for each in machine.loader.plan(digest).steps
        ]
        assert all(Tier.DISK in each for each in tiers)
    assert verify(tmp_path, digest).intact
    wanted = {
        path: content
        for path, content in files_of(there).items()
        if path in {each.path for each in manifest_of(there, digest).files()}
    }
    assert wanted.items() <= files_of(tmp_path).items()


def test_what_left_the_slab_is_fetched_once_more_for_the_disk(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd"]
    with a_machine(tmp_path) as machine, WebServer(there) as server:
        machine.begin(digest, server.url)
        machine.loader.load(digest).release()
        unet = manifest_of(there, digest).component("unet").digest
        for part in manifest_of(there, digest).components:
            machine.loader.evict(part.digest, Tier.VRAM)
        machine.loader.evict(unet, Tier.PINNED)
        asked = len(server.asked)
        machine.behind.submit(digest)
        machine.behind.flush()
        assert {each.path for each in server.asked[asked:]} == {f"/components/{unet}.safetensors"}
        assert digest in machine.store
        assert machine.heard.failed == []


def test_a_disk_that_cannot_be_written_costs_no_load(
    there: Path, digests: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = digests["sd"]
    with a_machine(tmp_path) as machine, WebServer(there) as server:
        machine.begin(digest, server.url)
        with machine.loader.load(digest) as model:
            (tmp_path / "components").rmdir()
            (tmp_path / "components").write_text("in the way")
            with caplog.at_level(logging.WARNING):
                machine.behind.submit(digest)
                machine.behind.flush()
            draw(model.pipeline)
        assert len(machine.heard.failed) == 1
        assert "the disk tier was not written" in caplog.text


def test_whatever_keeps_one_snapshot_from_the_disk_the_next_is_written(
    there: Path, digests: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_machine(tmp_path) as machine, WebServer(there) as server:
        for name in ("sd", "flux"):
            machine.begin(digests[name], server.url)
        holds = machine.store.holds
        monkeypatch.setattr(machine.store, "holds", lambda _part: [][1])
        machine.behind.submit(digests["sd"])
        machine.behind.flush()
        assert [type(error) for error in machine.heard.failed] == [IndexError]
        monkeypatch.setattr(machine.store, "holds", holds)
        machine.behind.submit(digests["flux"])
        machine.behind.flush()
        assert digests["flux"] in machine.store


def test_damage_on_the_way_never_reaches_a_model(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd"]
    unet = manifest_of(there, digest).component("unet")

    def flip(asked: Asked) -> bool:
        return unet.digest in asked.path and asked.start >= unet.data_start

    with a_machine(tmp_path) as machine, WebServer(there, Faults(flip=flip)) as server:
        machine.begin(digest, server.url)
        with pytest.raises(SnapshotCorrupt, match=r"unet|components/") as raised:
            machine.loader.load(digest)
        assert unet.digest in raised.value.message
        assert Tier.VRAM not in machine.loader.residency()[unet.digest].tiers
        server.faults.flip = lambda _: False
        machine.loader.load(digest).release()


def test_weights_that_are_not_what_their_name_says_are_withdrawn(
    digests: dict[str, str], tmp_path: Path
) -> None:
    """Blocks that match a manifest which is itself a lie: only the SHA-256 tells."""
    root, lie = tmp_path / "there", "ab" * 32
    true = pack(BUILDERS["sd"](3), SnapshotStore(root))
    vae = manifest_of(root, true).component("vae").digest
    source = SnapshotStore(root)
    encoded = source.manifest_path(true).read_bytes().replace(vae.encode(), lie.encode())
    source.component_path(vae).rename(source.component_path(lie))
    with source.writing() as writer:
        digest = writer.add_encoded_manifest(encoded)
    with a_machine(tmp_path / "here") as machine, WebServer(root) as server:
        machine.begin(digest, server.url)
        machine.loader.load(digest).release()
        machine.behind.submit(digest)
        machine.behind.flush()
        assert machine.heard.forged == [lie]
        assert digest not in machine.store
        assert not machine.store.component_path(lie).exists()
        machine.loader.evict(lie, Tier.VRAM)
        machine.loader.evict(lie, Tier.PINNED)
        with pytest.raises(SnapshotCorrupt, match="withdrawn from every tier"):
            machine.loader.load(digest)


def test_a_peer_that_dies_in_the_middle_is_followed_by_the_origin_at_the_block(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sdxl"]
    with (
        a_machine(tmp_path) as machine,
        WebServer(there, Faults(cut_all_after=5000)) as peer,
        WebServer(there) as server,
    ):
        machine.begin(digest, server.url, peer.url)
        machine.loader.load(digest).release()
        assert ("peer", "STORE_UNAVAILABLE") in machine.heard.faults


def test_a_peer_that_lies_is_left_and_its_bytes_with_it(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd"]
    with (
        a_machine(tmp_path) as machine,
        WebServer(there, Faults(flip=lambda asked: asked.start > 0)) as peer,
        WebServer(there) as server,
    ):
        machine.begin(digest, server.url, peer.url)
        with machine.loader.load(digest) as model:
            picture = draw(model.pipeline)
        assert ("peer", "SNAPSHOT_CORRUPT") in machine.heard.faults
        asked = len(peer.asked)
        for part in manifest_of(there, digest).components:
            machine.loader.evict(part.digest, Tier.VRAM)
            machine.loader.evict(part.digest, Tier.PINNED)
        machine.loader.load(digest).release()
        assert len(peer.asked) == asked, "who lied is left alone for a while"
    with a_loader(SnapshotStore(there)) as local, local.load(digest) as model:
        assert torch.equal(picture, draw(model.pipeline))


def test_a_peer_that_has_it_is_preferred_and_the_report_says_so(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd"]
    with (
        a_machine(tmp_path) as machine,
        WebServer(there) as peer,
        WebServer(there) as server,
    ):
        machine.begin(digest, server.url, peer.url)
        with machine.loader.load(digest) as model:
            assert {part.copier for part in model.report.components} == {"peer"}
        assert server.asked == []


def test_a_server_without_ranges_is_read_to_the_disk_first(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd"]
    with a_machine(tmp_path) as machine, WebServer(there, Faults(ranges=False)) as server:
        machine.begin(digest, server.url)
        with machine.loader.load(digest) as model:
            draw(model.pipeline)
        assert machine.store.holds(manifest_of(there, digest).component("unet"))
        machine.behind.submit(digest)
        machine.behind.flush()
    assert verify(tmp_path, digest).intact


def test_of_a_fine_tune_only_what_differs_travels(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    digest = digests["sd-tuned"]
    with a_machine(tmp_path) as machine, WebServer(there) as server:
        machine.begin(digests["sd"], server.url)
        machine.loader.load(digests["sd"]).release()
        asked = len(server.asked)
        machine.begin(digest, server.url)
        with machine.loader.load(digest) as model:
            picture = draw(model.pipeline)
        shared = {part.digest for part in manifest_of(there, digests["sd"]).components}
        paths = {each.path for each in server.asked[asked:]}
        assert not any(each in path for each in shared for path in paths)
    with a_loader(SnapshotStore(there)) as local, local.load(digest) as model:
        assert torch.equal(picture, draw(model.pipeline))


def test_nothing_of_a_failed_start_stays_behind(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    with a_machine(tmp_path) as machine, WebServer(there, Faults(status=503)) as server:
        with pytest.raises(StoreUnavailable):
            machine.begin(digests["sd"], server.url)
        server.faults.status = 404
        with pytest.raises(NotFound):
            machine.begin(digests["sd"], server.url)
        with pytest.raises(NotFound):
            machine.loader.load(digests["sd"])


def test_the_next_component_is_read_ahead(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    """While the last range of one is on its way, the first of the next is asked for already."""
    digest = digests["sd"]
    first, second, _ = manifest_of(there, digest).components
    both = threading.Barrier(2)

    def meet(asked: Asked) -> bool:
        data = {f"/{component_path(each.digest)}": each.data_start for each in (first, second)}
        if data.get(asked.path) == asked.start:
            both.wait(30)  # neither is answered before the other is asked for
        return False

    with a_machine(tmp_path) as machine, WebServer(there, Faults(flip=meet)) as server:
        machine.begin(digest, server.url)
        machine.loader.load(digest).release()
        starts = [(each.path, each.start) for each in server.asked]
    assert len(starts) == len(set(starts)), "nothing is read twice"


def test_what_two_workers_of_a_machine_start_at_once_is_fetched_once(
    there: Path, digests: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_waits = threading.Event()

    def wait(_seconds: float) -> None:
        second_waits.set()
        threading.Event().wait(0.01)

    monkeypatch.setattr("quickthaw.snapshot.remote.origin.time.sleep", wait)

    def hold(asked: Asked) -> bool:
        assert "/blobs/" not in asked.path or second_waits.wait(30)
        return False

    digest = digests["sd"]
    with a_machine(tmp_path) as one, a_machine(tmp_path) as other:  # noqa: SIM117
        with WebServer(there, Faults(flip=hold)) as server, ThreadPoolExecutor(2) as pool:
            for started in [pool.submit(each.begin, digest, server.url) for each in (one, other)]:
                started.result()
            small = [each.path for each in server.asked if "/blobs/" in each.path]
    assert len(small) == len(set(small)) > 0


def test_a_damaged_manifest_is_refused_at_the_beginning(
    there: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    copy = tmp_path / "there"
    SnapshotStore(copy).import_(there, digests["sd"])
    flip_bit(SnapshotStore(copy).manifest_path(digests["sd"]), 200)
    with (
        a_machine(tmp_path / "here") as machine,
        WebServer(copy) as server,
        pytest.raises(SnapshotCorrupt, match="does not match its digest"),
    ):
        machine.begin(digests["sd"], server.url)
