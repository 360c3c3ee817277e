"""What accounts may spend: holds, leases, stops, locks, credits, alerts."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.core.accounts import (
    Account,
    AlertKind,
    Calendar,
    Grant,
    GrantCredit,
    SetBudget,
    SetLock,
    Span,
    changed,
    with_alerts,
)
from quickthaw.scheduler.core.events import EndpointChanged
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    EndpointSettings,
    Job,
    Outcome,
    OutputUnits,
    Visibility,
)
from quickthaw.scheduler.core.pricing import (
    ModelPrice,
    PriceTable,
    Unit,
    affordable_ms,
    price_nanodollars,
)
from quickthaw.scheduler.core.settings import CoreSettings, SupplyPolicy
from quickthaw.wire.errors import BudgetExhausted, PermissionDenied
from support.core_builders import a_job, a_model, a_worker
from support.money_world import MoneyWorld, tenant_account

ACME = tenant_account("acme")
SETTINGS = CoreSettings(lease_ms=60_000, heartbeat_interval_ms=1_000, meter_lease_ms=2_000)
RATE = 1_000_000
"""Nano-dollars a second, so one a microsecond."""
PRICES = PriceTable("test-1", RATE, {"h100": RATE})
MONTH = SetBudget(0, Span.MONTH, ())


def a_world(*, workers: int = 1, concurrency: int = 1, prices: PriceTable = PRICES) -> MoneyWorld:
    world = MoneyWorld(SETTINGS, prices, seed=1)
    for number in range(workers):
        world.attach(a_worker(f"w{number}", concurrency=concurrency))
    return world


def run_p95_nanodollars(world: MoneyWorld, job: Job) -> int:
    """What a request of this kind is held for, asked of the world itself."""
    world.change(ACME, SetBudget(10**12, Span.MONTH, ()))
    assert world.submit(job)
    return world.machine.account(ACME).held_nanodollars


# ---- admission -------------------------------------------------------------------------------


def test_requests_that_set_out_together_cannot_hold_the_same_money() -> None:
    world = MoneyWorld(SETTINGS, PRICES, seed=1)  # nobody there: all of them wait
    each = run_p95_nanodollars(world, a_job())
    world.change(ACME, SetBudget(3 * each + each // 2, Span.MONTH, ()))
    admitted = [world.submit(a_job()) for _ in range(9)]
    assert admitted == [True, True] + [False] * 7  # one was there before
    assert all(isinstance(error, BudgetExhausted) for error in world.refused)
    told = world.refused[0]
    assert told.metadata["account"] == "acme"
    assert told.metadata["left_nanodollars"] == str(each // 2)
    assert told.metadata["needs_nanodollars"] == str(each)
    assert "quickthaw budget show acme" in told.message


def test_a_key_spends_within_its_own_budget_and_its_tenants() -> None:
    world = MoneyWorld(SETTINGS, PRICES, seed=1)
    each = run_p95_nanodollars(world, a_job())
    key = tenant_account("acme", "k1")
    world.change(key, SetBudget(each, Span.MONTH, ()))
    of_key = replace(a_job(), key_id="k1")
    assert world.submit(of_key)
    assert not world.submit(of_key)
    assert world.refused[-1].metadata["account"] == "acme/k1"
    assert world.submit(replace(a_job(), key_id="k2")), "another key of the tenant is free to"
    world.change(ACME, SetBudget(3 * each, Span.MONTH, ()))
    assert not world.submit(replace(a_job(), key_id="k2"))
    assert world.refused[-1].metadata["account"] == "acme"


def test_a_hold_that_never_got_into_the_journal_is_given_back() -> None:
    world = a_world()
    world.change(ACME, SetBudget(10**12, Span.MONTH, ()))
    job = a_job("req_lost")
    world.machine.hold(job, world.now_ms)
    assert world.machine.account(ACME).held_nanodollars > 0
    world.machine.release_hold(job.request_id)
    assert world.machine.account(ACME).held_nanodollars == 0
    assert world.machine.open_holds() == 0


def test_a_locked_account_takes_on_nothing_and_starts_nothing_but_ends_what_runs() -> None:
    world = a_world()
    assert world.submit(a_job())
    assert world.submit(a_job())
    [first] = [each for each, found in world.running.items() if found.began_ms is None][:1]
    world.begin(first)
    world.change(ACME, SetLock(True, "unpaid"))
    assert not world.submit(a_job())
    assert isinstance(world.refused[-1], PermissionDenied)
    assert "unpaid" in world.refused[-1].message
    world.wait(30_000)
    world.heartbeat(a_worker("w0").worker_id)
    world.obey()
    assert first in world.running
    world.finish(first, Outcome.SUCCEEDED, OutputUnits(1))
    world.change(ACME, SetLock(False))
    world.drain()
    assert {end.end.state for end in world.ended.values()} == {RequestState.SUCCEEDED}


# ---- while it runs ---------------------------------------------------------------------------


def overrun(world: MoneyWorld, budget_nanodollars: int, *, heard: bool) -> None:
    """One request that would run for ever, in steps of a tenth of a second; `heard`: heartbeats
    come through."""
    world.change(ACME, SetBudget(budget_nanodollars, Span.MONTH, ()))
    assert world.submit(a_job())
    [attempt_id] = world.running
    world.begin(attempt_id)
    for tenth in range(1, 1_000):
        world.wait(100)
        if heard and tenth % 10 == 0:
            world.heartbeat(a_worker("w0").worker_id)
        world.obey()
        if attempt_id not in world.running:
            return


def test_a_run_is_extended_until_the_money_ends_and_billed_for_what_ran() -> None:
    world = a_world()
    budget = 30 * RATE  # thirty seconds; a run is expected to take far less
    overrun(world, budget, heard=True)
    [end] = world.ended.values()
    assert end.end.state is RequestState.FAILED
    assert end.end.failure is not None
    assert end.end.failure.reason == "BUDGET_EXHAUSTED"
    assert "acme" in end.end.failure.message
    [line] = world.rows.ledger.values()
    assert line.waiver == ""
    assert line.billed_ms == line.metered_ms
    assert budget <= line.price_nanodollars <= budget + RATE // 10  # a tenth of a second's step
    assert end.end.receipt.price_nanodollars == line.price_nanodollars
    assert world.machine.account(ACME).account.spent_nanodollars == line.price_nanodollars
    world.check()


def test_a_worker_that_hears_nothing_stops_when_its_lease_ends_and_the_run_is_free() -> None:
    world = a_world()
    world.change(ACME, SetBudget(10**12, Span.MONTH, ()))
    assert world.submit(a_job())
    [attempt_id] = world.running
    paid_ms = world.running[attempt_id].paid_ms
    assert paid_ms > SETTINGS.meter_lease_ms
    world.begin(attempt_id)
    world.wait(paid_ms - 1)
    world.obey()
    assert attempt_id in world.running
    world.wait(1)
    world.obey()
    # The account could have paid, so it is not the caller's affair: again, elsewhere or here.
    assert world.rows.ledger[attempt_id].waiver == "worker_lost"
    assert world.rows.ledger[attempt_id].price_nanodollars == 0
    assert [found.assign.number for found in world.running.values()] == [2]


def test_a_budget_that_is_cut_below_what_runs_stops_it_at_the_next_heartbeat() -> None:
    world = a_world()
    world.change(ACME, SetBudget(10**12, Span.MONTH, ()))
    assert world.submit(a_job())
    [attempt_id] = world.running
    world.begin(attempt_id)
    world.wait(1_000)
    world.change(ACME, SetBudget(RATE // 2, Span.MONTH, ()))
    world.heartbeat(a_worker("w0").worker_id)
    world.obey()
    [end] = world.ended.values()
    assert end.end.failure is not None
    assert end.end.failure.reason == "BUDGET_EXHAUSTED"
    assert end.end.receipt.billed_ms == 1_000


def test_a_new_limit_reaches_what_was_accepted_without_one() -> None:
    world = a_world()
    assert world.submit(a_job())
    assert world.submit(a_job())
    assert world.machine.open_holds() == 0
    [first] = [each for each, found in world.running.items()][:1]
    assert world.running[first].paid_ms == 0, "nobody limits it, so it has no lease"
    world.change(ACME, SetBudget(10**12, Span.MONTH, ()))
    assert world.machine.open_holds() == 2
    world.begin(first)
    world.heartbeat(a_worker("w0").worker_id)
    assert world.running[first].paid_ms > 0
    world.drain()


def test_what_waits_for_an_account_that_others_emptied_fails_with_the_reason() -> None:
    world = a_world()
    each = run_p95_nanodollars(world, a_job())
    [first] = world.running
    world.change(
        ACME, SetBudget(world.machine.account(ACME).held_nanodollars + each, Span.TOTAL, ())
    )
    assert world.submit(a_job(model=a_model("other", gib=30)))
    world.begin(first)
    world.wait(59_000)
    world.finish(first, Outcome.SUCCEEDED, OutputUnits(1))  # far more than it was held for
    world.drain()
    reasons = [end.end.failure.reason for end in world.ended.values() if end.end.failure]
    assert reasons == ["BUDGET_EXHAUSTED"]


@pytest.mark.parametrize("callers", [500])
def test_five_hundred_callers_at_once_overspend_by_at_most_price_times_lease(callers: int) -> None:
    world = a_world(workers=40, concurrency=4)
    budget = 60 * RATE
    world.change(ACME, SetBudget(budget, Span.MONTH, (50, 100)))
    for _ in range(callers):
        world.submit(a_job())
    most = 0
    for tenth in range(1, 3_000):
        for attempt_id in list(world.running):
            world.begin(attempt_id)
        world.wait(100)
        if tenth % 10 == 0:
            for worker_id in world.workers:
                world.heartbeat(worker_id)
        world.obey()  # nothing ever ends by itself: every run takes all that it is given
        most = max(most, world.machine.account(ACME).account.spent_nanodollars)
        if not world.running and not list(world.machine.requests()):
            break
    assert not list(world.machine.requests())
    # The bound is price x lease for each that ran at once; here it is a step of each.
    at_once = 40 * 4
    assert budget - RATE < most <= budget + at_once * RATE * SETTINGS.meter_lease_ms // 1000
    assert most <= budget + len(world.rows.ledger) * RATE // 10
    assert world.machine.open_holds() == 0
    assert {alert.percent for alert in world.rows.alerts.values()} == {50, 100}
    world.check()


# ---- prices ----------------------------------------------------------------------------------


def test_what_is_sold_by_its_outputs_costs_what_was_delivered_and_has_no_lease() -> None:
    prices = PriceTable(
        "1", RATE, models={"test/m": ModelPrice(unit=Unit.MEGAPIXEL, unit_price_nanodollars=1_001)}
    )
    world = a_world(prices=prices)
    world.change(ACME, SetBudget(10_000, Span.MONTH, ()))
    job = replace(a_job(), outputs=OutputUnits(2, 2_097_152))
    assert world.submit(job)
    assert world.machine.account(ACME).held_nanodollars == 2_099  # 2.097152 x 1001, rounded
    [attempt_id] = world.running
    assert world.running[attempt_id].paid_ms == 0
    world.begin(attempt_id)
    world.wait(50_000)
    world.finish(attempt_id, Outcome.SUCCEEDED, OutputUnits(1, 1_048_576))
    [line] = world.rows.ledger.values()
    assert (line.unit, line.micro_units, line.unit_price_nanodollars) == (
        "megapixel",
        1_048_576,
        1_001,
    )
    assert (line.price_nanodollars, line.billed_ms) == (1_050, 0)


def test_a_reserved_worker_is_paid_for_by_its_owner_until_the_money_ends() -> None:
    planned = replace(SETTINGS, supply=SupplyPolicy(interval_ms=5_000))
    world = MoneyWorld(planned, PriceTable("1", RATE, {}, {}, {"h100": RATE // 2}), seed=1)
    world.attach(a_worker("w0"))
    world.change(ACME, SetBudget(300 * RATE, Span.TOTAL, ()))
    model = a_model()
    settings = EndpointSettings(Visibility.DEDICATED, "acme", reserved_workers=1)
    world.feed(EndpointChanged(model.id, settings))
    assert world.submit(a_job(model=model))
    [attempt_id] = world.running
    assert world.running[attempt_id].paid_ms == 0
    world.begin(attempt_id)
    world.wait(50_000)
    world.finish(attempt_id, Outcome.SUCCEEDED, OutputUnits(1))
    assert world.rows.ledger[attempt_id].waiver == "reserved"
    for _ in range(2_000):
        world.heartbeat(a_worker("w0").worker_id)
        world.wait(1_000)
        worker = world.machine.worker(a_worker("w0").worker_id)
        if worker is not None and worker.dedicated_to is None:
            break
    spent = world.machine.account(ACME).account.spent_nanodollars
    span = RATE // 2 * (SETTINGS.reservation_span_ms + 5_000) // 1000
    assert 300 * RATE <= spent <= 300 * RATE + span
    assert not world.submit(a_job(model=model))


@pytest.mark.parametrize("rate", [1, 3, 999, 1_000, 1_097_000, 10**12])
@pytest.mark.parametrize("nanodollars", [0, 1, 17, 10**6, 10**9 + 7])
def test_the_longest_run_that_an_amount_affords_costs_no_more_and_one_longer_does(
    rate: int, nanodollars: int
) -> None:
    span_ms = affordable_ms(nanodollars, rate)
    assert price_nanodollars(span_ms, rate) <= nanodollars
    assert price_nanodollars(span_ms + 1, rate) > nanodollars


# ---- accounts --------------------------------------------------------------------------------


def test_a_month_begins_at_midnight_utc_of_its_first_day() -> None:
    calendar = Calendar()
    assert calendar.month(1_796_083_199_999) == "2026-11"
    assert calendar.month(1_796_083_200_000) == "2026-12"
    assert calendar.month(1_798_761_600_000) == "2027-01"
    assert calendar.month(1_796_083_199_999) == "2026-11", "also when asked out of order"


@given(st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2400, 12, 31)))
def test_the_month_is_the_calendars(moment: datetime.datetime) -> None:
    unix_ms = int(moment.replace(tzinfo=datetime.UTC).timestamp() * 1000)
    assert Calendar().month(unix_ms) == f"{moment:%Y-%m}"


def test_a_monthly_budget_begins_anew_with_the_month_and_a_total_one_never() -> None:
    monthly = changed(Account(ACME), SetBudget(100, Span.MONTH, ()), "2026-11")
    monthly = monthly.charged(80, "2026-11")
    assert monthly.left_nanodollars("2026-11") == 20
    assert monthly.left_nanodollars("2026-12") == 100
    total = changed(monthly, SetBudget(100, Span.TOTAL, ()), "2026-12")
    assert total.left_nanodollars("2026-12") == 20


def test_a_prepaid_account_has_its_credit_and_no_more_than_its_budget() -> None:
    account = changed(Account(ACME), GrantCredit(Grant("g", 50, "", 0)), "2026-11")
    assert account.left_nanodollars("2026-11") == 50
    account = changed(account, SetBudget(30, Span.MONTH, ()), "2026-11")
    assert account.left_nanodollars("2026-11") == 30
    account = account.charged(40, "2026-11")
    assert account.left_nanodollars("2026-11") == -10
    assert account.credit_nanodollars == 10


def test_a_threshold_is_told_once_and_again_in_another_month() -> None:
    account = changed(Account(ACME), SetBudget(100, Span.MONTH, (50, 90)), "2026-11")
    account, first = with_alerts(account.charged(49, "2026-11"), "2026-11", 1)
    assert first == ()
    account, second = with_alerts(account.charged(46, "2026-11"), "2026-11", 2)
    assert [(alert.kind, alert.percent) for alert in second] == [
        (AlertKind.BUDGET, 50),
        (AlertKind.BUDGET, 90),
    ]
    account, third = with_alerts(account.charged(1, "2026-11"), "2026-11", 3)
    assert third == ()
    _account, fourth = with_alerts(account.charged(60, "2026-12"), "2026-12", 4)
    assert [alert.percent for alert in fourth] == [50]


def test_credit_has_thresholds_of_what_was_there_after_the_last_grant() -> None:
    account = changed(Account(ACME, alert_percents=(80,)), GrantCredit(Grant("g", 50, "", 0)), "m")
    account, alerts = with_alerts(account.charged(40, "m"), "m", 1)
    assert [(alert.kind, alert.used_nanodollars) for alert in alerts] == [(AlertKind.CREDIT, 40)]
    account = changed(account, GrantCredit(Grant("h", 90, "", 0)), "m")
    assert with_alerts(account.charged(10, "m"), "m", 2)[1] == ()


def test_a_quote_and_a_price_cap_go_by_the_models_own_price() -> None:
    own = {"test/m": ModelPrice(rate_nanodollars_per_second=50 * RATE)}
    sold = {"test/m": ModelPrice(unit=Unit.IMAGE, unit_price_nanodollars=7)}
    job = replace(a_job(), outputs=OutputUnits(images=3))
    plain, dear, by_image = (
        a_world(prices=PriceTable("1", RATE, models=models)).machine.quote(job, 1_780_000_000_000)
        for models in ({}, own, sold)
    )
    assert dear.price_nanodollars.p95 == 50 * plain.price_nanodollars.p95
    assert dear.rate_nanodollars_per_second == 50 * RATE
    assert by_image.price_nanodollars[:2] == (21, 21)
    world = a_world(prices=PriceTable("1", RATE, models=own))
    assert not world.submit(
        replace(job, price_cap_nanodollars=round(plain.price_nanodollars.p95) + 1)
    )
    assert "price cap" in world.refused[0].message
