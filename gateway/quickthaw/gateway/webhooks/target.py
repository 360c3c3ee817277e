"""What a caller says about whom to tell."""

from __future__ import annotations

from collections.abc import Sequence

from quickthaw.gateway.context import Gateway
from quickthaw.v1 import webhooks_pb2
from quickthaw.wire.errors import InvalidArgument


def webhook_target(
    gateway: Gateway,
    url: str,
    dialect: webhooks_pb2.WebhookDialect.ValueType,
    events: Sequence[str] = (),
) -> webhooks_pb2.WebhookTarget:
    """Raises InvalidArgument where nobody would deliver it; the scheduler checks the URL's form."""
    if not gateway.own_credential:
        raise InvalidArgument(
            "webhooks: this gateway has no key of its own (--key-file) and delivers none; ask for "
            "the state instead"
        )
    return webhooks_pb2.WebhookTarget(url=url, dialect=dialect, events=events)
