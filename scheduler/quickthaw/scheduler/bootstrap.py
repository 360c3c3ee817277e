"""What a starting scheduler puts in place before it serves: catalog, unfinished requests."""

from __future__ import annotations

import logging
from dataclasses import replace

from quickthaw.scheduler.catalog import Catalog
from quickthaw.scheduler.core.estimates import Estimates, LearnedEstimates
from quickthaw.scheduler.core.events import AccountRecovered
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.numbers import with_numbers
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.settings import CoreSettings, CrashPolicy, SupplyPolicy
from quickthaw.scheduler.core_kind import require_interpreted
from quickthaw.scheduler.decision_log import DecisionLog, RecordedMachine, release
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.settings import Limits, Settings
from quickthaw.scheduler.store.account_rows import accounts
from quickthaw.scheduler.store.recovery import (
    catalog_models,
    endpoints,
    open_requests,
    quarantines,
    recent_runs,
    worker_marks,
)
from quickthaw.scheduler.store.store import Store

logger = logging.getLogger(__name__)

DECISION_LOG = "decisions"
"""The folder of the decision log in the data directory."""


def core_settings(settings: Settings, tenant_weights: dict[str, float]) -> CoreSettings:
    limits = settings.limits
    core = CoreSettings(
        max_attempts=limits.attempts_max,
        lease_ms=limits.lease_ms,
        heartbeat_interval_ms=limits.heartbeat_interval_ms,
        meter_lease_ms=limits.meter_lease_ms,
        queue_max=limits.queue_max,
        queue_max_per_tenant=limits.tenant_queue_max,
        decisions_max=limits.decisions_max,
        tenant_weights=tenant_weights,
        tenant_concurrency_max=limits.tenant_concurrency_max,
        tenant_concurrency=dict(settings.tenant_concurrency),
        wait_limit_ms=limits.wait_limit_ms,
        poison_kills=limits.poison_kills,
        quarantine_kills=limits.quarantine_kills,
        quarantine_load_failures=limits.quarantine_load_failures,
        crash=CrashPolicy(deaths=limits.crash_deaths),
        supply=SupplyPolicy(
            interval_ms=limits.supply_interval_ms,
            keep_alive_ms=limits.keep_alive_ms,
            scale_down_delay_ms=limits.scale_down_delay_ms,
        ),
    )
    return with_numbers(core, settings.core_numbers)


async def recall_estimates(store: Store, limits: Limits, core: CoreSettings) -> LearnedEstimates:
    """What the newest runs in the store say. Loads are not recalled: a worker measures its speeds
    when it starts, and its next loads correct them."""
    estimates = LearnedEstimates(core.estimates_max)
    newest = limits.estimates_recalled_max
    for run in await store.reader.run(lambda connection: recent_runs(connection, newest)):
        estimates.recall(run.model, run.gpu_type, run.work_units, run.seconds)
    return estimates


def make_machine(
    settings: Settings, core: CoreSettings, prices: PriceTable, estimates: Estimates
) -> tuple[Machine, DecisionLog | None]:
    """With a log of what it decides, if one is wanted. Raises SettingsInvalid if the core that runs
    cannot keep one."""
    if not settings.limits.decision_log_mib:
        return Machine(core, prices, estimates), None
    require_interpreted("--decision-log-mib")
    bytes_max = settings.limits.decision_log_mib << 20
    log = DecisionLog(settings.data_dir / DECISION_LOG, bytes_max, release())
    return RecordedMachine(core, prices, log, estimates), log


async def load_catalog(store: Store, catalog: Catalog) -> None:
    catalog.load(await store.reader.run(catalog_models))


async def recover(store: Store, catalog: Catalog, dispatcher: Dispatcher) -> None:
    """Hands what operators asked of endpoints and workers, and every request that has not ended,
    to the core."""
    for account in await store.reader.run(accounts):
        dispatcher.feed(AccountRecovered(account))
    for changed in await store.reader.run(endpoints):
        model = catalog.models().get(changed.model)
        if changed.settings is not None and model is not None:
            catalog.set_endpoint(changed.model, changed.settings)
            dispatcher.feed(replace(changed, spec=model.spec))
    for quarantined in await store.reader.run(quarantines):
        dispatcher.feed(quarantined)
    for marked in await store.reader.run(worker_marks):
        dispatcher.feed(marked)
    recovered = await store.reader.run(lambda connection: list(open_requests(connection)))
    for each in recovered:
        dispatcher.recover(each.view, each.event)
    if recovered:
        logger.info("recovered %d requests that had not ended", len(recovered))
