"""The images part of OpenAI's API, as its public client speaks it."""

from quickthaw.gateway.openai.errors import error_response as error_response
from quickthaw.gateway.openai.routes import ROUTES as ROUTES
