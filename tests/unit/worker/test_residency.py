"""What has to go to make room, and what the scheduler is told of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quickthaw.worker.attempts import ComponentLoad, LoadSummary, Tier
from quickthaw.worker.residency import (
    Delta,
    LeastRecentlyUsed,
    ResidencyView,
    Resident,
    TierSpeeds,
    make_room,
)


def in_vram(**sizes: int) -> list[Resident]:
    return [Resident(digest, Tier.VRAM, size) for digest, size in sizes.items()]


def used(*digests: str) -> LeastRecentlyUsed:
    order = LeastRecentlyUsed()
    for digest in digests:
        order.touch([digest])
    return order


def test_nothing_is_evicted_while_there_is_room() -> None:
    assert make_room(10, 10, in_vram(a=5), (), (), used("a")).evict == ()


def test_the_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    room = make_room(10, 3, in_vram(a=5, b=5, c=5), (), (), used("b", "c", "a"))
    assert room.evict == ("b", "c")
    assert room.short_bytes == 0


def test_what_is_in_use_or_wanted_stays_and_the_shortage_is_told() -> None:
    room = make_room(20, 0, in_vram(a=5, b=5, c=5), {"a"}, {"b"}, used("a", "b", "c"))
    assert room.evict == ("c",)
    assert room.short_bytes == 15


def test_what_was_never_used_goes_before_everything_else() -> None:
    assert make_room(1, 0, in_vram(a=5, b=5), (), (), used("a")).evict == ("b",)


@given(
    sizes=st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 50)),
    needed=st.integers(0, 300),
    free=st.integers(0, 100),
    data=st.data(),
)
def test_room_is_made_exactly_when_it_can_be(
    sizes: dict[str, int], needed: int, free: int, data: st.DataObject
) -> None:
    digests = sorted(sizes)
    kept = data.draw(st.sets(st.sampled_from(digests))) if digests else set()
    resident = [Resident(digest, Tier.VRAM, size) for digest, size in sizes.items()]
    room = make_room(needed, free, resident, kept, (), LeastRecentlyUsed())
    freed = sum(sizes[digest] for digest in room.evict)
    assert not kept.intersection(room.evict)
    assert len(set(room.evict)) == len(room.evict)
    assert room.short_bytes == max(0, needed - free - freed)
    if room.short_bytes:
        assert set(room.evict) == set(digests) - kept


def test_the_scheduler_hears_differences_only() -> None:
    view = ResidencyView()
    first, second = Resident("a", Tier.VRAM, 1), Resident("a", Tier.DISK, 1)
    assert view.update([first]) == Delta((first,), ())
    assert view.update([first]) is None
    assert view.update([second]) == Delta((second,), (first,))
    assert view.bytes_by_tier()[Tier.DISK] == 1
    assert view.bytes_by_tier()[Tier.VRAM] == 0


def a_load(tier: Tier, size_bytes: int, seconds: float) -> LoadSummary:
    return LoadSummary(
        (ComponentLoad("unet", "d", size_bytes, tier, "", 0.0, 0.0),), bytes_seconds=seconds
    )


def test_tier_speeds_are_learned_from_loads_and_follow_them() -> None:
    speeds = TierSpeeds()
    speeds.observe(a_load(Tier.DISK, 100, 1.0))
    speeds.observe(a_load(Tier.DISK, 200, 1.0))
    speeds.observe(a_load(Tier.VRAM, 999, 0.0))
    (line,) = speeds.lines()
    assert line.tier is Tier.DISK
    assert 100 < line.bytes_per_second < 200
