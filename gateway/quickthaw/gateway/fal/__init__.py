"""fal's dialect: run, queue and stream, as its public clients speak them."""

from quickthaw.gateway.fal.routes import ROUTES
from quickthaw.gateway.fal.webhook import webhook_body

__all__ = ["ROUTES", "webhook_body"]
