"""A short-lived token in the query instead of a key: where browsers can send no header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quickthaw.gateway.calls import CallOptions
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.fal.tokens import verify
from quickthaw.gateway.ids import EndpointId


def with_token(
    gateway: Gateway, options: CallOptions, query: Mapping[str, str], endpoint: EndpointId
) -> CallOptions:
    """The options with the token's key, if there is a token.

    Raises Unauthenticated or PermissionDenied for one that is not good for the endpoint.
    """
    token = query.get("fal_jwt_token")
    if not token:
        return options
    return replace(options, credential=verify(gateway, token, endpoint))
