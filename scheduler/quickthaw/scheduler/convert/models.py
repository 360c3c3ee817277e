"""Catalog models."""

from __future__ import annotations

import dataclasses

from quickthaw.scheduler.catalog import CatalogModel, hash_document
from quickthaw.scheduler.convert.words import checked_text
from quickthaw.scheduler.core.model import Component, Digest, ModelId, ModelSpec
from quickthaw.v1 import catalog_pb2

DESCRIPTION_CHARS_MAX = 10_000
URI_CHARS_MAX = 2_000


def catalog_model(message: catalog_pb2.Model, now_ms: int) -> CatalogModel:
    """Unchecked but for texts; `catalog.check_model` looks at the rest. Raises InvalidArgument."""
    spec = ModelSpec(
        id=ModelId(message.id),
        family=checked_text("model.family", message.family, chars_max=64),
        snapshot_digest=message.snapshot_digest,
        snapshot_uri=checked_text(
            "model.snapshot_uri", message.snapshot_uri, chars_max=URI_CHARS_MAX
        ),
        components=tuple(
            Component(
                Digest(each.digest),
                each.size_bytes,
                checked_text("model.components.name", each.name, chars_max=200),
            )
            for each in message.components
        ),
        working_bytes=message.working_bytes,
    )
    model = CatalogModel(
        spec=spec,
        aliases=tuple(message.aliases),
        input_schema_json=message.input_schema_json or '{"type": "object"}',
        description=message.description[:DESCRIPTION_CHARS_MAX].replace("\0", ""),
        license=checked_text("model.license", message.license, chars_max=200),
        registered_unix_ms=now_ms,
    )
    return dataclasses.replace(model, version=hash_document(model.document_json))


def model_message(model: CatalogModel) -> catalog_pb2.Model:
    spec = model.spec
    return catalog_pb2.Model(
        id=spec.id,
        aliases=model.aliases,
        family=spec.family,
        snapshot_digest=spec.snapshot_digest,
        snapshot_uri=spec.snapshot_uri,
        components=[
            catalog_pb2.Component(name=each.name, digest=each.digest, size_bytes=each.size_bytes)
            for each in spec.components
        ],
        working_bytes=spec.working_bytes,
        input_schema_json=model.input_schema_json,
        description=model.description,
        license=model.license,
        registered_unix_ms=model.registered_unix_ms,
    )
