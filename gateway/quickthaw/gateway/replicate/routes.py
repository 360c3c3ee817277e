"""Replicate's routes under their prefix; streams are where its clients look for files."""

from __future__ import annotations

from starlette.routing import Route

from quickthaw.gateway.replicate import account, files, models, predictions
from quickthaw.gateway.replicate.stream import stream

_V1 = "/replicate/v1"
_MODEL = f"{_V1}/models/{{owner}}/{{name}}"
_PREDICTION = f"{_V1}/predictions/{{prediction}}"

ROUTES = [
    Route(f"{_V1}/predictions", predictions.create, methods=["POST"]),
    Route(f"{_V1}/predictions", predictions.list_predictions, methods=["GET"]),
    Route(f"{_PREDICTION}/cancel", predictions.cancel, methods=["POST"]),
    Route(_PREDICTION, predictions.get, methods=["GET"]),
    Route(f"{_V1}/models", models.list_models, methods=["GET"]),
    Route(f"{_V1}/models", models.search_models, methods=["QUERY"]),
    Route(f"{_MODEL}/predictions", predictions.create_of_model, methods=["POST"]),
    Route(f"{_MODEL}/versions", models.list_versions, methods=["GET"]),
    Route(f"{_MODEL}/versions/{{version}}", models.get_version, methods=["GET"]),
    Route(_MODEL, models.get_model, methods=["GET"]),
    Route(f"{_V1}/files", files.create, methods=["POST"]),
    Route(f"{_V1}/files", files.list_files, methods=["GET"]),
    Route(f"{_V1}/files/{{file_id}}", files.get, methods=["GET"]),
    Route(f"{_V1}/files/{{file_id}}", files.delete, methods=["DELETE"]),
    Route(f"{_V1}/account", account.account, methods=["GET"]),
    Route(f"{_V1}/hardware", account.hardware, methods=["GET"]),
    Route(f"{_V1}/webhooks/default/secret", account.webhook_secret, methods=["GET"]),
    Route("/v1/files/stream-{seal}", stream, methods=["GET"]),
]
