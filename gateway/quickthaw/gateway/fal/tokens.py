"""Short-lived tokens for code that must not hold a key, such as a page in a browser.

A token is sealed: it carries the key that asked for it, the apps that it is good for and when it
ends, readable by gateways with the same link secret only. So it acts for the key's tenant, works
with any replica, and dies with the key. It is checked when a connection is made, not after.
"""

from __future__ import annotations

from typing import Final, cast

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import read_arguments
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.ids import EndpointId
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.sealed import SealBroken
from quickthaw.wire.errors import PermissionDenied, Unauthenticated

TOKEN_SECONDS_DEFAULT: Final = 120
TOKEN_SECONDS_MAX: Final = 24 * 3600
APPS_MAX: Final = 20
APP_CHARS_MAX: Final = 100
_PURPOSE: Final = "fal token"


async def create_token(request: Request) -> Response:
    """`POST /rest/tokens`: the answer is a JSON string."""
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    body = await read_arguments(request, gateway.limits)
    apps, seconds = _apps(body), _seconds(body.get("token_expiration"))
    await gateway.platform.tenant(credential)  # A token of a bad key would only fail later.
    return json_response(mint(gateway, credential, apps, seconds))


def mint(gateway: Gateway, credential: Credential, apps: list[str], seconds: int) -> str:
    content: JsonObject = {"key": credential, "apps": apps}
    return gateway.sealer.seal(_PURPOSE, content, seconds)


def verify(gateway: Gateway, token: str, endpoint: EndpointId) -> Credential:
    """The key that the token acts for. Raises Unauthenticated for a token that is not good (any
    more), PermissionDenied for one that is for other apps."""
    try:
        content = gateway.sealer.unseal(_PURPOSE, token)
    except SealBroken as error:
        raise Unauthenticated("the token is unknown or has expired; fetch a new one") from error
    # Clients name an app by the second part of its id; whole ids are understood as well.
    if not {endpoint.alias, endpoint.app, endpoint.full} & set(cast("list[str]", content["apps"])):
        raise PermissionDenied(f"the token is not for {endpoint.app}: fetch one that names it")
    return Credential(cast("str", content["key"]))


def _apps(body: JsonObject) -> list[str]:
    value = body.get("allowed_apps")
    if not isinstance(value, list) or not 1 <= len(value) <= APPS_MAX:
        raise _wrong("allowed_apps", f"Input should be a list of 1 to {APPS_MAX} apps", "list_type")
    return [_app(each) for each in cast("list[Json]", value)]


def _app(value: Json) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= APP_CHARS_MAX:
        raise _wrong(
            "allowed_apps", "Input should be names of apps, such as flux for acme/flux", "string"
        )
    return value


def _seconds(value: Json) -> int:
    if value is None:
        return TOKEN_SECONDS_DEFAULT
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TOKEN_SECONDS_MAX:
        raise _wrong(
            "token_expiration", f"Input should be 1 to {TOKEN_SECONDS_MAX} seconds", "int_type"
        )
    return value


def _wrong(name: str, message: str, kind: str) -> HttpError:
    return HttpError(422, [{"loc": ["body", name], "msg": message, "type": kind}])
