"""Deployments: who brings which files to be packed under which name, and who is packing now.

They are in the scheduler's store because what ends one is a change of the catalog, which is a
transaction of this store: a model is registered and its deployment READY, or neither. Packers lease
what waits, as gateways lease webhooks; a lease counts as a try before it is carried out, so that
files that kill packers are given up like any other. One process writes the store, so one lock is
enough for "read, then change".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from quickthaw.scheduler.catalog import Catalog, CatalogModel, check_model
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.core.model import EndpointSettings, ModelId, Visibility
from quickthaw.scheduler.deployment_rules import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
    Failed,
    Progress,
    cancelled,
    failed,
    leased,
    lost,
    progressed,
    registered,
)
from quickthaw.scheduler.ids import RequestIds
from quickthaw.scheduler.quotas import STAGED, Quotas
from quickthaw.scheduler.releasing import Releasing
from quickthaw.scheduler.store.deployments import (
    changed_row,
    deployment,
    deployment_page,
    due_deployments,
    gone_row,
    new_row,
    open_counts,
    open_of,
    purge_row,
    surplus_of,
)
from quickthaw.scheduler.store.statements import Row
from quickthaw.scheduler.store.store import Store
from quickthaw.scheduler.unbroken import unbroken
from quickthaw.wire import errors

ID_CHARS_MAX = 64
POLL_SECONDS = 1.0
_LOOKED_AT = 16
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class DeploymentLimits:
    open_max: int
    tenant_open_max: int
    attempts_max: int
    tenant_kept_max: int
    retention_hours: int


class Deployments:
    """Belongs to the event loop."""

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        releasing: Releasing,
        quotas: Quotas,
        clock: Clock,
        limits: DeploymentLimits,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._releasing = releasing
        self._quotas = quotas
        self._clock = clock
        self._limits = limits
        self._ids = RequestIds(prefix="dep_")
        self._changing = asyncio.Lock()
        # Replaced when it is set, so that who began to wait earlier has heard.
        self._news = asyncio.Event()

    # ---- for callers -------------------------------------------------------------------------

    @unbroken
    async def create(self, tenant: str, spec: DeploymentSpec) -> Deployment:
        """Durable when this returns. Raises ModelNotFound, InvalidArgument, PermissionDenied,
        AlreadyExists, ResourceExhausted, and as the journal."""
        self._check_target(tenant, spec)
        if spec.base:
            self._check_base(tenant, spec)
        async with self._changing:
            mine, all_open = await self._store.reader.run(lambda c: open_counts(c, tenant))
            if mine >= self._limits.tenant_open_max or all_open >= self._limits.open_max:
                whose = "of yours" if mine >= self._limits.tenant_open_max else "here"
                raise errors.ResourceExhausted(
                    f"{mine if whose == 'of yours' else all_open} deployments {whose} are open, as "
                    "many as may be; wait for one to end, or cancel one",
                    retry_delay_seconds=10.0,
                )
            waiting = await self._store.reader.run(lambda c: open_of(c, tenant))
            await self._quotas.check(
                tenant,
                more=1 + len(waiting),
                more_bytes=spec.size_bytes + sum(each.spec.size_bytes for each in waiting),
            )
            now_ms = self._clock.now_ms()
            made = Deployment(
                deployment_id=self._ids.new(now_ms),
                tenant=tenant,
                spec=spec,
                state=DeploymentState.WAITING,
                created_ms=now_ms,
                updated_ms=now_ms,
                due_ms=now_ms,
            )
            purge = purge_row(now_ms - self._limits.retention_hours * _HOUR_MS)
            kept = self._limits.tenant_kept_max
            surplus = await self._store.reader.run(lambda c: surplus_of(c, tenant, kept))
            rows = [new_row(made), purge, *map(gone_row, surplus)]
            await self._store.journal.offer(rows)
        self._tell()
        return made

    async def find(self, tenant: str | None, deployment_id: str) -> Deployment:
        """`tenant`: whose it must be; None for anyone's. Raises NotFound."""
        known = None
        if deployment_id and len(deployment_id) <= ID_CHARS_MAX and deployment_id.isprintable():
            known = await self._store.reader.run(lambda c: deployment(c, deployment_id))
        if known is None or tenant not in (None, known.tenant):
            raise errors.NotFound(
                f"there is no deployment {deployment_id[:ID_CHARS_MAX]!r}; `quickthaw deployments` "
                "lists yours"
            )
        return known

    async def page(
        self, tenant: str, *, before_id: str, states: Sequence[DeploymentState], size: int
    ) -> tuple[list[Deployment], str]:
        """One page, newest first, and the token of the next."""
        found = await self._store.reader.run(
            lambda c: deployment_page(c, tenant, before_id=before_id, states=states, size=size)
        )
        return found, found[-1].deployment_id if len(found) == size else ""

    @unbroken
    async def cancel(self, tenant: str, deployment_id: str) -> Deployment:
        """As it is then; one that has ended stays as it is. Raises NotFound."""
        async with self._changing:
            known = await self.find(tenant, deployment_id)
            if not known.open:
                return known
            return await self._keep(cancelled(known, self._clock.now_ms()))

    # ---- for packers -------------------------------------------------------------------------

    async def lease(self, *, wait_ms: int, lease_ms: int) -> Deployment | None:
        """The one that has waited longest; None if there was none in time."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + wait_ms / 1000
        while True:
            news = self._news
            found = await self._lease_now(lease_ms)
            left_seconds = give_up - loop.time()
            if found is not None or left_seconds <= 0:
                return found
            try:
                # Tries and leases become due by the clock, of which nobody tells.
                async with asyncio.timeout(min(left_seconds, POLL_SECONDS)):
                    await news.wait()
            except TimeoutError:
                pass

    @unbroken
    async def _lease_now(self, lease_ms: int) -> Deployment | None:
        async with self._changing:
            now_ms = self._clock.now_ms()
            due = await self._store.reader.run(lambda c: due_deployments(c, now_ms, _LOOKED_AT))
            for each in due:
                if each.attempts < self._limits.attempts_max:
                    lease_id = secrets.token_hex(16)
                    return await self._keep(leased(each, lease_id, now_ms, now_ms + lease_ms))
                await self._keep(lost(each, now_ms, self._limits.attempts_max))
        return None

    @unbroken
    async def report(
        self,
        deployment_id: str,
        lease_id: str,
        *,
        lease_ms: int,
        state: DeploymentState,
        progress: Progress,
        outcome: Failed | CatalogModel | None,
    ) -> tuple[Deployment, bool]:
        """Where it stands now, and whether the report counted. Raises NotFound, and as the
        journal."""
        async with self._changing:
            known = await self.find(None, deployment_id)
            if not lease_id or known.lease_id != lease_id:
                return known, False
            now_ms = self._clock.now_ms()
            after = progressed(known, state, progress, now_ms, now_ms + lease_ms)
            if isinstance(outcome, CatalogModel):
                return await self._register(after, outcome), True
            if outcome is not None:
                after = failed(
                    after,
                    outcome.reason,
                    outcome.message,
                    now_ms,
                    retryable=outcome.retryable,
                    attempts_max=self._limits.attempts_max,
                )
            return await self._keep(after), True

    # ---- within ------------------------------------------------------------------------------

    async def _register(self, known: Deployment, model: CatalogModel) -> Deployment:
        """Ready, and the model's newest version with it; or failed for what stands against that."""
        try:
            self._check_target(known.tenant, known.spec)
            check_model(model)
            components = {str(each.digest): each.size_bytes for each in model.spec.components}
            await self._quotas.check_packed(known.tenant, model.spec.snapshot_digest, components)
            async with self._releasing.changing:
                return await self._put(known, model)
        except (errors.Unavailable, errors.StorageFull):
            raise  # The packer says it again later.
        except errors.QuickthawError as error:
            now_ms = self._clock.now_ms()
            refused = failed(
                known, error.reason, error.message, now_ms, retryable=False, attempts_max=0
            )
            return await self._keep(refused)

    async def _put(self, known: Deployment, model: CatalogModel) -> Deployment:
        before = self._catalog.models().get(known.spec.model)
        after = known

        def ready(number: int) -> Sequence[Row]:
            nonlocal after
            after = registered(known, number, model.spec.snapshot_digest, self._clock.now_ms())
            return [changed_row(after)]

        await self._releasing.put(model, self._settings(known, before), ready)
        await self._unstage(after)
        return after

    def _settings(self, known: Deployment, before: CatalogModel | None) -> EndpointSettings:
        """A new endpoint is private; another version keeps it, unless something else was asked."""
        wanted = Visibility(known.spec.visibility) if known.spec.visibility else None
        now = EndpointSettings(visibility=Visibility.PRIVATE, owner_tenant=known.tenant)
        if before is not None:
            now = self._catalog.endpoint(before.spec.id)
        return (
            now
            if wanted is None
            else replace(now, visibility=wanted, owner_tenant=now.owner_tenant or known.tenant)
        )

    async def _keep(self, after: Deployment) -> Deployment:
        """Durable when this returns."""
        await self._store.journal.offer([changed_row(after)])
        if not after.open:
            async with self._releasing.changing:
                await self._unstage(after)
        elif after.state is DeploymentState.WAITING:
            self._tell()
        return after

    async def _unstage(self, ended: Deployment) -> None:
        """What a packer tried it under is gone with it, also if the packer is."""
        with suppress(errors.ModelNotFound):
            staged = self._catalog.get(f"{STAGED}{ended.deployment_id}")
            await self._releasing.remove(ModelId(staged.spec.id))

    def _check_target(self, tenant: str, spec: DeploymentSpec) -> None:
        """Raises PermissionDenied and AlreadyExists for a name that is not the tenant's."""
        owner = spec.model.partition("/")[0]
        if spec.by_admin:
            return
        if owner != tenant:
            raise errors.PermissionDenied(
                f"{spec.model!r} is not below your own name: deploy to {tenant}/..."
            )
        known = self._catalog.models().get(spec.model)
        if known is not None and self._catalog.endpoint(spec.model).owner_tenant != tenant:
            raise errors.AlreadyExists(
                f"{spec.model!r} was set up by the platform's operators; choose another name"
            )
        if spec.visibility and Visibility(spec.visibility) is not Visibility.PRIVATE:
            raise errors.PermissionDenied(
                f"visibility {spec.visibility!r} needs the scope 'admin'; yours are private"
            )

    def _check_base(self, tenant: str, spec: DeploymentSpec) -> None:
        base = self.base(tenant, spec)
        if spec.family and spec.family != base.spec.family:
            raise errors.InvalidArgument(
                f"base {spec.base!r} is of family {base.spec.family}, not {spec.family}"
            )
        if not base.spec.snapshot_digest:
            raise errors.InvalidArgument(
                f"{base.spec.id} has no weights, so nothing can be deployed over it"
            )

    def base(self, tenant: str, spec: DeploymentSpec) -> CatalogModel:
        """As it is now, if the tenant may see it. Raises ModelNotFound."""
        return self._catalog.get(spec.base, None if spec.by_admin else tenant)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
