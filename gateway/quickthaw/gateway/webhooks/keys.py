"""The public halves of the keys that fal-style webhooks are signed with."""

from __future__ import annotations

import base64

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.respond import json_response
from quickthaw.v1 import webhooks_pb2
from quickthaw.wire.errors import Unavailable

CACHED_SECONDS = 300
"""A receiver meets a new key at most this long before it looks for it; deliveries are repeated."""


async def jwks(request: Request) -> Response:
    gateway = gateway_of(request)
    if not gateway.own_credential:
        raise Unavailable("this gateway has no key of its own and signs no webhooks")
    keys = await gateway.platform.signing_keys(gateway.own_credential)
    return json_response(
        {"keys": [_jwk(key) for key in keys]},
        headers={"cache-control": f"public, max-age={CACHED_SECONDS}"},
    )


def _jwk(key: webhooks_pb2.SigningKey) -> JsonObject:
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        # With its padding: receivers after the vendor's example decode it without adding any.
        "x": base64.urlsafe_b64encode(key.public_key).decode(),
        "kid": key.kid,
        "alg": "EdDSA",
        "use": "sig",
    }


ROUTES = [
    Route("/.well-known/jwks.json", jwks, methods=["GET"]),
    Route("/rest/.well-known/jwks.json", jwks, methods=["GET"]),
]
