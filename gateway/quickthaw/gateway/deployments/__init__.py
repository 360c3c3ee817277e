"""Custom models by HTTP: what tenants deploy, and what becomes of it."""

from quickthaw.gateway.deployments.document import deployment_paths
from quickthaw.gateway.deployments.routes import ROUTES

__all__ = ["ROUTES", "deployment_paths"]
