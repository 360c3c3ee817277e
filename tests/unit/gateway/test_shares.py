"""Nobody has so much of what callers share that nothing is left for the others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from hypothesis import given
from hypothesis import strategies as st

from quickthaw.gateway.holders import address_holder
from quickthaw.gateway.shares import Shares
from quickthaw.gateway.upload_places import UploadPlaces

TAKES = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 40)), max_size=60)


@given(TAKES)
def test_who_comes_next_always_finds_something_and_all_is_given_back(
    takes: list[tuple[str, int]],
) -> None:
    shares = Shares(1000, 1.0)
    held: dict[str, int] = {}
    for holder, amount in takes:
        if shares.take(holder, amount):
            held[holder] = held.get(holder, 0) + amount
        assert sum(held.values()) < 1000
        assert shares.take("late", 1)
        shares.give_back("late", 1)
    for holder, amount in held.items():
        assert amount <= 500
        shares.give_back(holder, amount)
    assert shares.take("whole", 1000)


def test_one_that_is_alone_gets_half_and_two_a_third_each() -> None:
    shares = Shares(900, 1.0)
    taken = dict.fromkeys("ab", 0)
    while shares.take("a", 1):
        taken["a"] += 1
    assert taken["a"] == 450
    while shares.take("b", 1):
        taken["b"] += 1
    assert taken["b"] == 225
    while taken["a"] > 300:  # As it gives back, the other gets what is its own.
        shares.give_back("a", 1)
        taken["a"] -= 1
    while shares.take("b", 1):
        taken["b"] += 1
    assert taken["b"] == 300


def test_a_multiple_says_how_much_and_what_moves_is_the_others() -> None:
    shares = Shares(100, 3.0)
    assert shares.take("a", 1)
    assert shares.take("a", 74)
    assert not shares.take("a", 1)
    shares.move("a", "b", 75)
    assert shares.take("a", 25)
    assert not shares.take("c", 1)


async def test_places_go_round_the_tenants_and_come_back_from_who_stopped_waiting() -> None:
    places = UploadPlaces(2, 1.0)
    got: list[str] = []

    async def upload(name: str, until: asyncio.Event) -> None:
        async with places.taken(name[0]):
            got.append(name)
            await until.wait()

    ends = {name: asyncio.Event() for name in ("a1", "b1", "a2", "a3", "b2", "c1", "a4")}
    tasks = {name: asyncio.create_task(upload(name, end)) for name, end in ends.items()}
    await asyncio.sleep(0)
    assert got == ["a1", "b1"]
    tasks["a2"].cancel()
    ends["a1"].set()
    await asyncio.wait({tasks["a1"], tasks["a2"]})
    await asyncio.sleep(0)
    assert got == ["a1", "b1", "a3"]
    for name in ("a3", "b1"):
        ends[name].set()
        await tasks[name]
    await asyncio.sleep(0)
    assert sorted(got[3:]) == ["b2", "c1"]
    for end in ends.values():
        end.set()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert got[-1] == "a4"
    async with asyncio.timeout(1), AsyncExitStack() as stack:
        for name in "xy":
            await stack.enter_async_context(places.taken(name))


async def test_one_that_stops_waiting_alone_leaves_no_turn_behind() -> None:
    places = UploadPlaces(1, 1.0)
    async with places.taken("a"):
        waiting = asyncio.create_task(places.taken("b").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(1), places.taken("b"):
        pass


def test_the_addresses_of_one_customer_are_one() -> None:
    assert address_holder(("2001:db8:1:2::3", 1)) == address_holder(("2001:db8:1:2:9::4", 2))
    assert address_holder(("2001:db8:1:3::3", 1)) != address_holder(("2001:db8:1:2::3", 1))
    assert address_holder(("10.0.0.1", 1)) != address_holder(("10.0.0.2", 1))
    assert address_holder(("::ffff:10.0.0.1", 1)) != address_holder(("::ffff:10.0.0.2", 1))
