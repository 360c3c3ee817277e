"""Uploads and their expiry on a folder, at times of the test's choosing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quickthaw.gateway.ranges import ByteRange
from quickthaw.gateway.storage import Expiry, QuotaExceeded, UploadRefused, Uploads, open_blobs
from quickthaw.gateway.storage.expiry import sweeping
from quickthaw.gateway.storage.lifecycle import Lifecycle
from quickthaw.gateway.storage.names import display_name, media_type, url_name
from quickthaw.wire.errors import ArtifactNotFound
from support.patience import PATIENCE_SECONDS

SECRET = bytes(32)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class House:
    def __init__(self, folder: Path, tenant_bytes_max: int = 10_000) -> None:
        self.clock = Clock()
        self.folder = folder
        blobs = open_blobs(str(folder))
        self.expiry = Expiry(blobs, self.clock)
        self.uploads = Uploads(
            blobs,
            self.expiry,
            SECRET,
            file_bytes_max=1000,
            tenant_bytes_max=tenant_bytes_max,
            partial_seconds=3600,
            now=self.clock,
        )

    def files(self, below: str) -> list[str]:
        root = self.folder / below
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def broken(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each
    raise ConnectionError("the caller left")


async def test_a_file_expires_at_its_second_and_is_swept_after_it(tmp_path: Path) -> None:
    house = House(tmp_path)
    ticket = house.uploads.ticket("alice", "a", "text/plain", Lifecycle(90.0))
    await house.uploads.store(ticket, pieces(b"abc"))
    house.clock.now += 89.9
    assert (await house.uploads.find(ticket.file_id)).size_bytes == 3
    house.clock.now += 0.1
    with pytest.raises(ArtifactNotFound):
        await house.uploads.find(ticket.file_id)
    assert len(house.files("uploads")) == 2
    house.clock.now += 60
    assert await house.expiry.sweep() == 1
    assert house.files("uploads") == []


async def test_the_sweep_leaves_what_has_not_expired(tmp_path: Path) -> None:
    house = House(tmp_path)
    for seconds in (None, 1e6):
        ticket = house.uploads.ticket("alice", "a", "text/plain", Lifecycle(seconds))
        await house.uploads.store(ticket, pieces(b"abc"))
    house.clock.now += 90_000  # The marks of uploads that might not have been completed are due.
    assert await house.expiry.sweep() == 2
    assert len(house.files("uploads")) == 4
    assert await house.expiry.sweep() == 0


async def test_an_upload_that_was_never_completed_is_swept(tmp_path: Path) -> None:
    house = House(tmp_path)
    ticket = house.uploads.ticket("alice", "a", "text/plain", Lifecycle())
    await house.uploads.store_part(ticket, 1, pieces(b"abc"), None)
    assert len(house.files("uploads")) == 1
    house.clock.now += 3500
    await house.expiry.sweep()
    assert len(house.files("uploads")) == 1
    house.clock.now += 160
    await house.expiry.sweep()
    assert house.files("uploads") == []


async def test_a_sweep_that_meets_something_odd_is_followed_by_the_next(tmp_path: Path) -> None:
    swept_again = asyncio.Event()

    class Odd(Expiry):
        met = False

        async def sweep(self) -> int:
            if self.met:
                swept_again.set()
                return 0
            self.met = True
            raise ValueError("a folder that is no day")

    async with sweeping(Odd(open_blobs(str(tmp_path))), every_seconds=0):
        await asyncio.wait_for(swept_again.wait(), PATIENCE_SECONDS)


async def test_a_mark_that_nobody_knows_stays(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.expiry.mark("newer", "x", house.clock.now)
    house.clock.now += 120
    assert await house.expiry.sweep() == 1
    assert len(house.files("expiry")) == 1


async def test_an_upload_that_breaks_off_leaves_nothing_but_its_mark(tmp_path: Path) -> None:
    house = House(tmp_path)
    ticket = house.uploads.ticket("alice", "a", "text/plain", Lifecycle())
    with pytest.raises(ConnectionError):
        await house.uploads.store(ticket, broken(b"abc"))
    assert house.files("uploads") == []
    await house.uploads.store(ticket, pieces(b"abc", b"def"))
    assert (await house.uploads.find(ticket.file_id)).size_bytes == 6


async def test_a_ticket_is_good_for_one_file(tmp_path: Path) -> None:
    house = House(tmp_path)
    ticket = house.uploads.ticket("alice", "a", "text/plain", Lifecycle())
    first = await house.uploads.store(ticket, pieces(b"abc"))
    again = await house.uploads.store(ticket, pieces(b"ab", b"c"))
    assert again == first
    with pytest.raises(UploadRefused):
        await house.uploads.store(ticket, pieces(b"abd"))
    assert len(house.files("uploads")) == 2


async def test_what_is_stored_counts_for_its_tenant_and_for_nobody_else(tmp_path: Path) -> None:
    house = House(tmp_path, tenant_bytes_max=1500)

    async def store(tenant: str, size: int) -> None:
        ticket = house.uploads.ticket(tenant, "a", "text/plain", Lifecycle(600.0))
        await house.uploads.store(ticket, pieces(bytes(size)))

    await store("alice", 1000)
    with pytest.raises(QuotaExceeded, match="1500 bytes together"):
        await store("alice", 600)
    with pytest.raises(QuotaExceeded, match="at most 1000 bytes"):
        await store("bob", 1001)
    await store("bob", 1000)
    house.clock.now += 660
    await house.expiry.sweep()
    await store("alice", 600)


async def test_what_arrives_at_once_counts_together(tmp_path: Path) -> None:
    house = House(tmp_path, tenant_bytes_max=1500)
    both_begun = asyncio.Barrier(2)

    async def slowly() -> AsyncIterator[bytes]:
        yield bytes(400)
        await both_begun.wait()
        yield bytes(400)

    async def store() -> None:
        ticket = house.uploads.ticket("alice", "a", "text/plain", Lifecycle(600.0))
        await house.uploads.store(ticket, slowly())

    outcomes = await asyncio.gather(store(), store(), return_exceptions=True)
    assert sorted(isinstance(each, QuotaExceeded) for each in outcomes) == [False, True]
    # What broke off takes no room.
    ticket = house.uploads.ticket("alice", "b", "text/plain", Lifecycle(600.0))
    await house.uploads.store(ticket, pieces(bytes(700)))


async def test_two_gateways_with_one_secret_serve_each_others_files(tmp_path: Path) -> None:
    one, other = House(tmp_path), House(tmp_path)
    ticket = one.uploads.ticket(
        "alice", "ä", "text/plain", Lifecycle(5.0, "hide", (("bob", "allow"),))
    )
    tag = await one.uploads.store_part(ticket, 1, pieces(b"abc"), 3)
    moved = type(ticket).from_json(ticket.as_json())
    assert moved == ticket
    stored = await other.uploads.complete(moved, [(1, tag)])
    assert await one.uploads.find(ticket.file_id) == stored
    assert stored.lifecycle.decision("bob") == "allow"
    assert stored.lifecycle.decision("carol") == "hide"


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=6),
    st.integers(0, 130),
    st.integers(0, 130),
)
async def test_a_range_of_a_file_in_parts_is_that_range_of_its_bytes(
    tmp_path: Path, parts: list[bytes], start: int, stop: int
) -> None:
    house = House(tmp_path, tenant_bytes_max=10**9)
    ticket = house.uploads.ticket("alice", "a", "text/plain", Lifecycle())
    tags = [
        (number, await house.uploads.store_part(ticket, number, pieces(part), None))
        for number, part in enumerate(parts, start=1)
    ]
    stored = await house.uploads.complete(ticket, tags[::-1])
    whole = b"".join(parts)
    stop = min(stop, len(whole))
    got = b"".join([data async for data in house.uploads.read(stored, ByteRange(start, stop))])
    assert got == whole[start:stop]


@given(st.text(max_size=300))
def test_any_name_is_shown_without_paths_and_stands_in_a_url(name: str) -> None:
    shown = display_name(name, "image/png")
    assert shown
    assert "/" not in shown
    in_url = url_name(shown)
    assert in_url.isascii()
    assert in_url.replace("-", "").replace("_", "").replace(".", "").isalnum() or in_url
    assert not in_url.startswith(".")
    assert "/" not in in_url


def test_a_name_for_the_nameless_says_what_it_is() -> None:
    assert display_name("", "image/png") == "file.png"
    assert display_name("..", "x/y") == "file"


@pytest.mark.parametrize("given", [None, "", "x", "a/b\r\nset-cookie: x", "text/html" * 50, "é/é"])
def test_what_is_no_media_type_is_bytes(given: str | None) -> None:
    assert media_type(given) == "application/octet-stream"


def test_a_media_type_keeps_its_charset() -> None:
    assert media_type("Text/Plain; charset=utf-8") == "text/plain; charset=utf-8"
