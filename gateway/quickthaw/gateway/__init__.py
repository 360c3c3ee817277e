"""The HTTP face of Quickthaw: what public clients speak, turned into gRPC calls."""

from quickthaw.gateway.app import build_app
from quickthaw.gateway.server import serve
from quickthaw.gateway.settings import GatewaySettings, Limits

__all__ = ["GatewaySettings", "Limits", "build_app", "serve"]
