"""The settings of endpoints as rows, whose columns have the settings' names."""

from __future__ import annotations

import json

from sqlalchemy import RowMapping

from quickthaw.scheduler.core.model import EndpointSettings, Visibility
from quickthaw.scheduler.endpoints import BOUNDS
from quickthaw.scheduler.store.statements import Row, Statement


def endpoint_rows(model_id: str, settings: EndpointSettings) -> list[Row]:
    return [
        Row(
            Statement.UPSERT_ENDPOINT,
            {
                "model_id": model_id,
                "visibility": settings.visibility.value,
                "owner_tenant": settings.owner_tenant,
                **{name: int(getattr(settings, name)) for name in BOUNDS},
                "worker_labels_json": json.dumps(dict(settings.worker_labels), sort_keys=True),
            },
        )
    ]


def endpoint_from_row(row: RowMapping) -> EndpointSettings:
    return EndpointSettings(
        visibility=Visibility(row["visibility"]),
        owner_tenant=row["owner_tenant"],
        worker_labels=json.loads(row["worker_labels_json"]),
        **{name: row[name] for name in BOUNDS},
    )
