"""OpenAI's routes under their prefix."""

from __future__ import annotations

from starlette.routing import Route

from quickthaw.gateway.openai.images import edits, generations, variations
from quickthaw.gateway.openai.models import get_model, list_models

ROUTES = [
    Route("/openai/v1/images/generations", generations, methods=["POST"]),
    Route("/openai/v1/images/edits", edits, methods=["POST"]),
    Route("/openai/v1/images/variations", variations, methods=["POST"]),
    Route("/openai/v1/models", list_models, methods=["GET"]),
    Route("/openai/v1/models/{model:path}", get_model, methods=["GET"]),
]
