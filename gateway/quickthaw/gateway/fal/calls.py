"""A call as the path, the headers, the query and the body of fal's clients say it."""

from __future__ import annotations

from starlette.requests import Request

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import read_arguments
from quickthaw.gateway.calls import Call, make_call
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.endpoints import served
from quickthaw.gateway.fal.call_options import read_options
from quickthaw.gateway.fal.token_query import with_token
from quickthaw.gateway.ids import parse_endpoint_id
from quickthaw.gateway.json_text import Json

UNUSED_CHARS_MAX = 2_000


async def read_call(request: Request, *, previews: bool = False, as_they_are: bool = False) -> Call:
    """Raises HttpError, ClientGone and the platform's errors for the model and the key.

    `as_they_are`: with arguments that cannot be used, a call that says so.
    """
    gateway = gateway_of(request)
    endpoint = parse_endpoint_id(request.path_params["endpoint"])
    options = read_options(request.headers)
    if previews:  # A stream, which a page in a browser may open.
        options = with_token(gateway, options, request.query_params, endpoint)
    arguments = await read_arguments(request, gateway.limits)
    try:
        return await make_call(gateway, endpoint, options, arguments, previews=previews)
    except HttpError as error:
        detail = error.answer.detail
        if error.answer.status != 422 or isinstance(detail, str) or not as_they_are:
            raise
    found = await served(gateway, options.credential, endpoint)
    kept = {name: _shortened(value) for name, value in arguments.items()}
    return Call(
        gateway,
        found.endpoint,
        options,
        found.schema,
        kept,
        sync_mode=False,
        found_wrong=detail,
    )


def _shortened(value: Json) -> Json:
    """Of what will never run, a file inside the arguments need not be kept."""
    if isinstance(value, str) and len(value) > UNUSED_CHARS_MAX:
        return f"{value[:UNUSED_CHARS_MAX]}..."
    return value
