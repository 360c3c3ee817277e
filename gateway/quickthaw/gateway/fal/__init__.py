"""fal's dialect: run, queue and stream, as its public clients speak them."""

from quickthaw.gateway.fal.routes import ROUTES

__all__ = ["ROUTES"]
