"""Delivery of webhooks that the scheduler has stored."""

from quickthaw.gateway.webhooks.deliveries import Body as Body
from quickthaw.gateway.webhooks.deliveries import Deliverer as Deliverer
from quickthaw.gateway.webhooks.deliveries import delivering as delivering
from quickthaw.gateway.webhooks.keys import ROUTES as ROUTES
