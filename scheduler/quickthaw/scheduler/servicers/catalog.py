"""The models that can be asked for."""

from __future__ import annotations

import asyncio

import grpc.aio

from quickthaw.scheduler.catalog import Catalog, CatalogModel, check_model
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.convert.models import catalog_model, model_message
from quickthaw.scheduler.convert.pages import page_size
from quickthaw.scheduler.convert.words import checked_text
from quickthaw.scheduler.store.journal import Journal
from quickthaw.scheduler.store.statements import Row, Statement
from quickthaw.v1 import catalog_pb2, catalog_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class CatalogServicer(catalog_pb2_grpc.CatalogServicer):
    def __init__(self, catalog: Catalog, journal: Journal, clock: Clock) -> None:
        self._catalog = catalog
        self._journal = journal
        self._clock = clock
        # Names are checked before the commit and taken after it, so changes go one by one.
        self._changing = asyncio.Lock()

    async def Register(
        self, request: catalog_pb2.RegisterRequest, context: Context
    ) -> catalog_pb2.RegisterResponse:
        model = catalog_model(request.model, self._clock.now_ms())
        check_model(model)
        async with self._changing:
            known = self._catalog.models().get(model.spec.id)
            if known is not None and known.version == model.version:
                return catalog_pb2.RegisterResponse(model=model_message(known), changed=False)
            self._catalog.check_names(model)
            await self._journal.offer(register_rows(model))
            self._catalog.put(model)
        return catalog_pb2.RegisterResponse(model=model_message(model), changed=True)

    async def GetModel(
        self, request: catalog_pb2.GetModelRequest, context: Context
    ) -> catalog_pb2.Model:
        return model_message(self._catalog.get(request.id))

    async def ListModels(
        self, request: catalog_pb2.ListModelsRequest, context: Context
    ) -> catalog_pb2.ListModelsResponse:
        after = checked_text("page.token", request.page.token, chars_max=200)
        size = page_size(request.page)
        ids = sorted(each for each in self._catalog.models() if each > after)
        page = ids[:size]
        return catalog_pb2.ListModelsResponse(
            models=[model_message(self._catalog.get(each)) for each in page],
            next_page_token=page[-1] if len(ids) > size else "",
        )

    async def Remove(
        self, request: catalog_pb2.RemoveRequest, context: Context
    ) -> catalog_pb2.RemoveResponse:
        async with self._changing:
            model_id = self._catalog.get(request.id).spec.id
            key = {"key_model_id": model_id}
            await self._journal.offer(
                [Row(Statement.DELETE_ALIASES, key), Row(Statement.DELETE_MODEL, key)]
            )
            self._catalog.remove(model_id)
        return catalog_pb2.RemoveResponse()


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
