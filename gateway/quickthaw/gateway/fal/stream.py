"""`POST /run/{id}/stream`: previews while the picture forms, and the output as the last event."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import ErrorAnswer, HttpError
from quickthaw.gateway.bodies import until_gone
from quickthaw.gateway.calls import AttendedRequest, Call
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.errors import error_answer
from quickthaw.gateway.fal.calls import read_call
from quickthaw.gateway.fal.output import preview_object
from quickthaw.gateway.fal.run import output_of_success
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.respond import REQUEST_ID_HEADER, EventStream, error_body
from quickthaw.wire.status import translate


async def stream(request: Request) -> Response:
    """What is wrong with the call is an ordinary error answer: the stream has not begun then."""
    call = await read_call(request, previews=True)
    attended = await until_gone(request.receive, AttendedRequest.submit(call))
    exchange_of(request).request_id = attended.request_id
    return EventStream(
        call.gateway,
        _events(call, attended),
        {REQUEST_ID_HEADER: attended.request_id},
        on_end=attended.abandon,
    )


async def _events(call: Call, attended: AttendedRequest) -> AsyncGenerator[JsonObject, None]:
    progress: JsonObject = {}
    events = attended.events()
    try:
        async for event in events:
            match event.WhichOneof("kind"):
                case "progress":
                    progress = {"step": event.progress.step, "steps": event.progress.steps}
                case "preview":
                    yield preview_object(event.preview, call.input, progress)
                case "finished":
                    yield await output_of_success(call, event.finished)
                case _:
                    pass  # States and logs have their own stream, the status stream of the queue.
    except HttpError as error:
        yield error_event(call.gateway, error.answer)
    except Exception as error:
        yield error_event(call.gateway, error_answer(translate(error)))
    finally:
        await events.aclose()


def error_event(gateway: Gateway, answer: ErrorAnswer) -> JsonObject:
    """The last event of a stream that failed after it began."""
    return {
        "type": "error",
        "message": answer.text,
        "error": {"status": answer.status, "body": error_body(answer, gateway.public_url)},
    }
