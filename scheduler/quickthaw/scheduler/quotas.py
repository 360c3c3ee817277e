"""How many snapshots a tenant may keep, and how many bytes of them.

What counts is every version of every model whose endpoint is the tenant's. Bytes of components that
another's model in the catalog has as well are not the tenant's: a LoRA costs its own megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quickthaw.scheduler.catalog import Catalog
from quickthaw.scheduler.store.deployments import versions_of
from quickthaw.scheduler.store.reader import Reader
from quickthaw.wire import errors

STAGED = "self-test/"
"""What is being tried counts when it is handed in, and is nobody's before."""


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    snapshots_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class _Used:
    snapshots: frozenset[str]
    components: Mapping[str, int]
    """Bytes by digest."""


class Quotas:
    """Belongs to the event loop."""

    def __init__(self, catalog: Catalog, reader: Reader, limits: QuotaLimits) -> None:
        self._catalog = catalog
        self._reader = reader
        self._limits = limits

    async def check(self, tenant: str, *, more: int, more_bytes: int) -> None:
        """Before something is packed. Raises ResourceExhausted."""
        used = await self._used(tenant)
        self._refuse_over(len(used.snapshots), more, sum(used.components.values()), more_bytes)

    async def check_packed(self, tenant: str, snapshot: str, components: Mapping[str, int]) -> None:
        """Before a snapshot is registered. Raises ResourceExhausted."""
        used = await self._used(tenant)
        others = self._others(tenant)
        more_bytes = sum(
            size
            for digest, size in components.items()
            if digest not in used.components and digest not in others
        )
        self._refuse_over(
            len(used.snapshots),
            0 if snapshot in used.snapshots else 1,
            sum(used.components.values()),
            more_bytes,
        )

    def _refuse_over(self, count: int, more: int, used_bytes: int, more_bytes: int) -> None:
        limits = self._limits
        what = ""
        if count + more > limits.snapshots_max:
            what = (
                f"you may keep {limits.snapshots_max} snapshots and have {count}, with {more} "
                "more on the way"
            )
        elif used_bytes + more_bytes > limits.bytes_max:
            what = (
                f"your snapshots may have {limits.bytes_max} bytes together; {used_bytes} are "
                f"used and {more_bytes} more are asked for"
            )
        if what:
            raise errors.ResourceExhausted(
                f"{what}; delete an endpoint (DELETE /v1/endpoints/OWNER/NAME, `quickthaw deploy "
                "delete`), or ask for more",
                metadata={"quota": "snapshots"},
            )

    async def _used(self, tenant: str) -> _Used:
        mine = [each for each in self._catalog.models() if self._owned(each, tenant)]
        specs = await self._reader.run(lambda c: versions_of(c, mine))
        others = self._others(tenant)
        return _Used(
            frozenset(each.snapshot_digest for each in specs if each.snapshot_digest),
            {
                part.digest: part.size_bytes
                for each in specs
                for part in each.components
                if part.digest not in others
            },
        )

    def _others(self, tenant: str) -> set[str]:
        """Components that models of others have as well."""
        return {
            part.digest
            for name, model in self._catalog.models().items()
            if not name.startswith(STAGED) and not self._owned(name, tenant)
            for part in model.spec.components
        }

    def _owned(self, model_id: str, tenant: str) -> bool:
        if model_id.startswith(STAGED):
            return False
        return self._catalog.endpoint(model_id).owner_tenant == tenant
