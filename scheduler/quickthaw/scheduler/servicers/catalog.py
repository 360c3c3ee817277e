"""The models that can be asked for, and how they are served."""

from __future__ import annotations

from dataclasses import replace

import grpc.aio

from quickthaw.scheduler import auth
from quickthaw.scheduler.catalog import Catalog, CatalogModel, check_model
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.convert.endpoints import (
    VISIBILITY_TO_WIRE,
    endpoint_message,
    endpoint_settings,
)
from quickthaw.scheduler.convert.models import catalog_model, model_message
from quickthaw.scheduler.convert.pages import page_size, version_token
from quickthaw.scheduler.convert.words import checked_text
from quickthaw.scheduler.core import events
from quickthaw.scheduler.core.model import EndpointSettings, ModelId, Visibility
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.endpoints import SETTING_NAMES, check_endpoint, merged
from quickthaw.scheduler.keys import Scope
from quickthaw.scheduler.releasing import Released, Releasing
from quickthaw.scheduler.store.endpoints import endpoint_rows
from quickthaw.scheduler.store.releases import releases, unused_snapshots
from quickthaw.scheduler.store.store import Store
from quickthaw.scheduler.unbroken import unbroken
from quickthaw.v1 import catalog_pb2, catalog_pb2_grpc, types_pb2
from quickthaw.wire import errors

Context = grpc.aio.ServicerContext[object, object]


def _viewer() -> str | None:
    """As whom the caller sees the catalog: operators see everything."""
    who = auth.caller()
    return None if who.may(Scope.ADMIN) else who.tenant


class CatalogServicer(catalog_pb2_grpc.CatalogServicer):
    def __init__(
        self,
        catalog: Catalog,
        releasing: Releasing,
        store: Store,
        clock: Clock,
        dispatcher: Dispatcher,
    ) -> None:
        self._catalog = catalog
        self._releasing = releasing
        self._journal = store.journal
        self._reader = store.reader
        self._clock = clock
        self._dispatcher = dispatcher

    @unbroken
    async def Register(
        self, request: catalog_pb2.RegisterRequest, context: Context
    ) -> catalog_pb2.RegisterResponse:
        model = catalog_model(request.model, self._clock.now_ms())
        check_model(model)
        settings: EndpointSettings | None = None
        if request.HasField("endpoint"):
            settings = endpoint_settings(request.endpoint)
            if settings.visibility is not Visibility.SHARED and not settings.owner_tenant:
                settings = replace(settings, owner_tenant=auth.caller().tenant)
            check_endpoint(settings)
        async with self._releasing.changing:
            released = await self._releasing.put(model, settings)
        return _registered(released)

    async def GetModel(
        self, request: catalog_pb2.GetModelRequest, context: Context
    ) -> catalog_pb2.Model:
        return self._model(self._catalog.get(request.id, _viewer()))

    async def ListModels(
        self, request: catalog_pb2.ListModelsRequest, context: Context
    ) -> catalog_pb2.ListModelsResponse:
        page, token = self._page(request.page)
        return catalog_pb2.ListModelsResponse(
            models=[self._model(self._catalog.get(each)) for each in page],
            next_page_token=token,
        )

    @unbroken
    async def Remove(
        self, request: catalog_pb2.RemoveRequest, context: Context
    ) -> catalog_pb2.RemoveResponse:
        async with self._releasing.changing:
            await self._releasing.remove(self._changeable(request.id).spec.id)
        return catalog_pb2.RemoveResponse()

    # ---- versions ----------------------------------------------------------------------------

    async def ListVersions(
        self, request: catalog_pb2.ListVersionsRequest, context: Context
    ) -> catalog_pb2.ListVersionsResponse:
        current = self._catalog.get(request.model, _viewer())
        below, size = version_token(request.page), page_size(request.page)
        found = await self._reader.run(
            lambda store: releases(store, current.spec.id, below=below, limit=size + 1)
        )
        return catalog_pb2.ListVersionsResponse(
            versions=[
                catalog_pb2.ModelVersion(
                    number=each.number,
                    model=model_message(each.model),
                    current=each.model.version == current.version,
                )
                for each in found[:size]
            ],
            next_page_token=str(found[size - 1].number) if len(found) > size else "",
        )

    @unbroken
    async def Rollback(
        self, request: catalog_pb2.RollbackRequest, context: Context
    ) -> catalog_pb2.RegisterResponse:
        async with self._releasing.changing:
            model_id = self._changeable(request.model).spec.id
            released = await self._releasing.roll_back(ModelId(model_id), request.number)
        return _registered(released)

    async def ListUnusedSnapshots(
        self, request: catalog_pb2.ListUnusedSnapshotsRequest, context: Context
    ) -> catalog_pb2.ListUnusedSnapshotsResponse:
        return catalog_pb2.ListUnusedSnapshotsResponse(
            snapshots=[
                catalog_pb2.UnusedSnapshot(digest=digest, uri=uri)
                for digest, uri in await self._reader.run(unused_snapshots)
            ]
        )

    # ---- endpoints ---------------------------------------------------------------------------

    async def GetEndpoint(
        self, request: catalog_pb2.GetEndpointRequest, context: Context
    ) -> catalog_pb2.Endpoint:
        return self._endpoint(self._catalog.get(request.model, _viewer()))

    @unbroken
    async def SetEndpoint(
        self, request: catalog_pb2.SetEndpointRequest, context: Context
    ) -> catalog_pb2.Endpoint:
        wanted = endpoint_settings(request.endpoint)
        names = tuple(request.names[: len(SETTING_NAMES) + 1])
        async with self._releasing.changing:
            model = self._catalog.get(request.model)
            settings = merged(self._catalog.endpoint(model.spec.id), wanted, names)
            check_endpoint(settings)
            await self._journal.offer(endpoint_rows(model.spec.id, settings))
            self._releasing.serve(model.spec.id, settings)
        # What it ended, such as a time for which workers were reserved, is on the bill by then.
        await self._dispatcher.durable()
        return self._endpoint(model)

    async def ListEndpoints(
        self, request: catalog_pb2.ListEndpointsRequest, context: Context
    ) -> catalog_pb2.ListEndpointsResponse:
        page, token = self._page(request.page)
        return catalog_pb2.ListEndpointsResponse(
            endpoints=[self._endpoint(self._catalog.get(each)) for each in page],
            next_page_token=token,
        )

    async def ReleaseQuarantine(
        self, request: catalog_pb2.ReleaseQuarantineRequest, context: Context
    ) -> catalog_pb2.Endpoint:
        model = self._catalog.get(request.model)
        self._dispatcher.feed(events.QuarantineReleased(model.spec.id))
        await self._dispatcher.durable()
        return self._endpoint(model)

    def _changeable(self, name: str) -> CatalogModel:
        """The model that the caller may change. Raises ModelNotFound, and PermissionDenied for one
        that it sees and does not own."""
        who = auth.caller()
        model = self._catalog.get(name, _viewer())
        owner = self._catalog.endpoint(model.spec.id).owner_tenant
        if not who.may(Scope.ADMIN) and owner != who.tenant:
            raise errors.PermissionDenied(
                f"{model.spec.id} is not {who.tenant!r}'s own; changing it needs the scope 'admin'"
            )
        auth.check_admits(who, model.spec.id)
        return model

    def _model(self, model: CatalogModel) -> catalog_pb2.Model:
        message = model_message(model)
        message.visibility = VISIBILITY_TO_WIRE[self._catalog.endpoint(model.spec.id).visibility]
        return message

    def _endpoint(self, model: CatalogModel) -> catalog_pb2.Endpoint:
        now = self._dispatcher.machine.endpoint_now(model.spec)
        return endpoint_message(
            model.spec.id,
            self._catalog.endpoint(model.spec.id),
            replicas=now.replicas,
            quarantine=now.quarantine,
            reserved=now.reserved,
        )

    def _page(self, page: types_pb2.Page) -> tuple[list[str], str]:
        """Ids that the caller may see, and the token of the next page."""
        after = checked_text("page.token", page.token, chars_max=200)
        size = page_size(page)
        viewer, visible = _viewer(), self._catalog.visible
        ids = sorted(
            each for each in self._catalog.models() if each > after and visible(each, viewer)
        )
        found = ids[:size]
        return found, found[-1] if len(ids) > size else ""


def _registered(released: Released) -> catalog_pb2.RegisterResponse:
    return catalog_pb2.RegisterResponse(
        model=model_message(released.model), changed=released.changed
    )
