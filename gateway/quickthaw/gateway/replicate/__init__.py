"""Replicate's HTTP API, as its public clients speak it."""

from quickthaw.gateway.replicate.errors import error_response as error_response
from quickthaw.gateway.replicate.hooks import webhook_body as webhook_body
from quickthaw.gateway.replicate.routes import ROUTES as ROUTES
