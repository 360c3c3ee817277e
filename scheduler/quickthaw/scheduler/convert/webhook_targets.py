"""What a submission says about its webhook."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from quickthaw.scheduler.convert.words import checked_text, invalid
from quickthaw.scheduler.webhook_rules import Dialect, Target
from quickthaw.v1 import webhooks_pb2

URL_CHARS_MAX = 2_000
EVENTS_MAX = 8
_EVENT = re.compile(r"[a-z_]{1,20}")

_DIALECTS: Mapping[Dialect, webhooks_pb2.WebhookDialect.ValueType] = {
    Dialect.FAL: webhooks_pb2.WEBHOOK_DIALECT_FAL,
    Dialect.REPLICATE: webhooks_pb2.WEBHOOK_DIALECT_REPLICATE,
}
_DIALECTS_FROM_WIRE = {int(wire): ours for ours, wire in _DIALECTS.items()}


def target(message: webhooks_pb2.WebhookTarget) -> Target:
    """Raises InvalidArgument. Whether the URL may be called at all is the gateway's to say."""
    url = checked_text("webhook.url", message.url, chars_max=URL_CHARS_MAX, required=True)
    unusable = invalid("webhook.url", "must be an http or https URL with a host")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise unusable from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or " " in url:
        raise unusable
    if parts.username is not None:
        told = "must hold no user name, which no gateway sends: check the signature instead"
        raise invalid("webhook.url", told)
    if message.dialect not in _DIALECTS_FROM_WIRE:
        raise invalid("webhook.dialect", "must be FAL or REPLICATE")
    if len(message.events) > EVENTS_MAX or not all(map(_EVENT.fullmatch, message.events)):
        raise invalid("webhook.events", f"must be at most {EVENTS_MAX} lower-case words")
    return Target(url, _DIALECTS_FROM_WIRE[message.dialect], tuple(message.events))


def target_message(target: Target) -> webhooks_pb2.WebhookTarget:
    return webhooks_pb2.WebhookTarget(
        url=target.url, dialect=_DIALECTS[target.dialect], events=target.events
    )
