"""How a request tells of a refusal that came after it was accepted: with kinds, as if at once."""

from __future__ import annotations

from quickthaw.gateway.answers import ErrorAnswer
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.errors import failure_answer
from quickthaw.gateway.json_text import object_or_empty
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.violations import schema_violations
from quickthaw.v1 import types_pb2
from quickthaw.wire.errors import InvalidInput, QuickthawError


async def failed_answer(
    gateway: Gateway, credential: Credential, request: types_pb2.Request
) -> ErrorAnswer:
    """For a request that ended without success."""
    failure = request.failure
    kinds = any(each.kind for each in failure.violations)
    if failure.reason != InvalidInput.reason or kinds:
        return failure_answer(failure)
    try:
        model = await gateway.platform.model(credential, request.model)
    except QuickthawError:
        return failure_answer(failure)  # The model may be gone by now; the texts are not.
    schema = object_or_empty(model.input_schema_json)
    found = schema_violations(object_or_empty(request.input_json), schema)
    return failure_answer(failure, found)
