"""Changes of the catalog, durable and one by one: versions put in place, taken back, taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quickthaw.scheduler.catalog import Catalog, CatalogModel
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.core import events
from quickthaw.scheduler.core.model import DEFAULT_ENDPOINT, EndpointSettings, ModelId
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.store.endpoints import endpoint_rows
from quickthaw.scheduler.store.releases import number_for, release
from quickthaw.scheduler.store.statements import Row, Statement, Value
from quickthaw.scheduler.store.store import Store
from quickthaw.wire import errors


@dataclass(frozen=True, slots=True)
class Released:
    """The model as it is from now on, and which of its versions that is."""

    model: CatalogModel
    changed: bool
    number: int


def _nothing(_number: int) -> Sequence[Row]:
    return ()


class Releasing:
    """Belongs to the event loop. Names are checked before a commit and taken after it, so every
    change holds `changing` meanwhile, and its caller is `unbroken`."""

    def __init__(
        self, catalog: Catalog, store: Store, clock: Clock, dispatcher: Dispatcher
    ) -> None:
        self._catalog = catalog
        self._journal = store.journal
        self._reader = store.reader
        self._clock = clock
        self._dispatcher = dispatcher
        self.changing = asyncio.Lock()

    async def put(
        self,
        model: CatalogModel,
        settings: EndpointSettings | None,
        also: Callable[[int], Sequence[Row]] = _nothing,
    ) -> Released:
        """The caller holds `changing`. `also`: rows of the same transaction, for the version's
        number. Raises AlreadyExists, ResourceExhausted, and as the journal."""
        model_id = model.spec.id
        known = self._catalog.models().get(model_id)
        changed = known is None or known.version != model.version
        changes_endpoint = settings is not None and settings != self._catalog.endpoint(model_id)
        self._catalog.check_names(model)
        number = await self._reader.run(lambda store: number_for(store, model_id, model.version))
        rows: list[Row] = []
        if changed:
            rows = [*register_rows(model), release_row(model, number)]
        if settings is not None and changes_endpoint:
            rows.extend(endpoint_rows(model_id, settings))
        rows.extend(also(number))
        if rows:
            await self._journal.offer(rows)
        if settings is not None and changes_endpoint:
            # Before the model can be found, so that a private one is never anybody else's.
            self._catalog.set_endpoint(model_id, settings)
        if changed:
            self._catalog.put(model)
        else:
            model = self._catalog.get(model_id)
        if changes_endpoint or self._catalog.endpoint(model_id) != DEFAULT_ENDPOINT:
            self.serve(model_id, self._catalog.endpoint(model_id))
        return Released(model, changed or changes_endpoint, number)

    async def roll_back(self, model_id: ModelId, number: int) -> Released:
        """The caller holds `changing`. Raises NotFound, and as `put`."""
        found = await self._reader.run(lambda store: release(store, model_id, number))
        if found is None:
            raise errors.NotFound(
                f"{model_id} has no version {number}; `quickthaw deploy versions {model_id}` "
                "lists them"
            )
        return await self.put(replace(found.model, registered_unix_ms=self._clock.now_ms()), None)

    async def remove(self, model_id: ModelId) -> None:
        """With its endpoint and its versions. The caller holds `changing`."""
        key: dict[str, Value] = {"key_model_id": model_id}
        statements = (
            Statement.DELETE_ALIASES,
            Statement.DELETE_MODEL,
            Statement.DELETE_ENDPOINT,
            # Whoever takes the name next must not see what it was.
            Statement.DELETE_RELEASES,
        )
        await self._journal.offer([Row(statement, key) for statement in statements])
        self._catalog.remove(model_id)
        self._dispatcher.feed(events.EndpointChanged(model_id, None))

    def serve(self, model_id: ModelId, settings: EndpointSettings) -> None:
        """What is durable holds from now on."""
        self._catalog.set_endpoint(model_id, settings)
        spec = self._catalog.models()[model_id].spec
        self._dispatcher.feed(events.EndpointChanged(model_id, settings, spec))


def register_rows(model: CatalogModel) -> list[Row]:
    model_id = model.spec.id
    return [
        Row(
            Statement.INSERT_MODEL_VERSION,
            {
                "version": model.version,
                "model_id": model_id,
                "document_json": model.document_json,
            },
        ),
        Row(Statement.DELETE_ALIASES, {"key_model_id": model_id}),
        Row(
            Statement.UPSERT_MODEL,
            {
                "model_id": model_id,
                "version": model.version,
                "registered_unix_ms": model.registered_unix_ms,
            },
        ),
        *(
            Row(Statement.INSERT_ALIAS, {"alias": alias, "model_id": model_id})
            for alias in model.aliases
        ),
    ]


def release_row(model: CatalogModel, number: int) -> Row:
    """A version that the model has been before keeps the number that it has."""
    return Row(
        Statement.INSERT_RELEASE,
        {
            "model_id": model.spec.id,
            "version": model.version,
            "number": number,
            "registered_unix_ms": model.registered_unix_ms,
        },
    )
