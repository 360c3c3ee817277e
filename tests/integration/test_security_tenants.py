"""What one tenant has does not exist for another: every route and every method, by its ids.

Each is asked twice by bob: with what alice has, and with what nobody has. The two answers must not
differ but in the name that was asked for, and alice herself must be answered otherwise.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf.message import Message
from starlette.routing import Match, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from quickthaw.gateway import fal, files, health, openai, openapi, pages, replicate, webhooks
from quickthaw.scheduler.auth import SCOPES
from quickthaw.scheduler.keys import Scope
from quickthaw.v1 import (
    billing_pb2,
    catalog_pb2,
    fleet_pb2,
    inference_pb2,
    webhooks_pb2,
)
from support.schedulers import submission
from support.strangers import (
    NOBODYS,
    SECRET_MODEL,
    Names,
    Strangers,
    hers,
    nobodys,
    turned,
    two_tenants,
)


@pytest.fixture
async def strangers(tmp_path: Path) -> AsyncIterator[Strangers]:
    async with two_tenants(tmp_path) as found:
        yield found


# ---- HTTP ------------------------------------------------------------------------------------

INPUT: dict[str, object] = {"prompt": "x"}
ASKED: tuple[tuple[str, str, dict[str, object] | None], ...] = (
    ("GET", "/queue/{model}/requests/{request}/status", None),
    ("GET", "/queue/{model}/requests/{request}/status/stream", None),
    ("GET", "/queue/{model}/requests/{request}", None),
    ("GET", "/queue/test/tiny/requests/{request}", None),
    ("GET", "/queue/test/tiny/requests/{request}/status?logs=1", None),
    ("PUT", "/queue/{model}/requests/{request}/cancel", None),
    ("POST", "/queue/{model}", INPUT),
    ("POST", "/run/{model}", INPUT),
    ("POST", "/run/{model}/stream", INPUT),
    ("GET", "/api/openapi/queue/openapi.json?endpoint_id={model}", None),
    ("GET", "/v1/models?endpoint_id={model}", None),
    ("GET", "/v1/models?endpoint_id={model}&expand=openapi-3.0", None),
    ("GET", "/v1/models/pricing?endpoint_id={model}", None),
    (
        "POST",
        "/v1/models/pricing/estimate",
        {"estimate_type": "historical_api_price", "endpoints": {"{model}": {"call_quantity": 1}}},
    ),
    ("GET", "/openai/v1/models/{model}", None),
    ("POST", "/openai/v1/images/generations", {"model": "{model}", "prompt": "x"}),
    ("POST", "/replicate/v1/predictions", {"version": "{model}", "input": INPUT}),
    ("GET", "/replicate/v1/predictions/{request}", None),
    ("POST", "/replicate/v1/predictions/{request}/cancel", None),
    ("POST", "/replicate/v1/models/{model}/predictions", {"input": INPUT}),
    ("GET", "/replicate/v1/models/{model}", None),
    ("GET", "/replicate/v1/models/{model}/versions", None),
    ("GET", "/replicate/v1/models/{model}/versions/" + "ab" * 32, None),
    ("GET", "/replicate/v1/files/{file}", None),
    ("DELETE", "/replicate/v1/files/{file}", None),
)
"""With alice's names, for her something else than 404 (what runs is left to wait)."""

LISTS = (
    "/v1/models",
    "/v1/models?q=alice&expand=openapi-3.0",
    "/v1/models?endpoint_id=test/tiny&endpoint_id=alice/secret",
    "/openai/v1/models",
    "/replicate/v1/models",
    "/replicate/v1/predictions",
    "/replicate/v1/files",
)

OTHERWISE = {
    # Nothing in them is anybody's.
    *("/", "/ca.pem", "/health", "/health/live", "/health/ready", "/openapi.json"),
    "/docs/errors",
    *("/.well-known/jwks.json", "/rest/.well-known/jwks.json", "/replicate/v1/hardware"),
    # The caller's own, which is all that they can name.
    *("/replicate/v1/account", "/replicate/v1/webhooks/default/secret", "/rest/tokens"),
    *("/rest/storage/auth/token", "/rest/storage/upload/initiate"),
    *(
        "/rest/storage/upload/initiate-multipart",
        "/cdn/files/upload",
        "/cdn/files/upload/multipart",
    ),
    # A secret in the path is the leave: see test_capabilities.
    *(
        "/files/{signature}/{request_id}/{name:path}",
        "/cdn/files/{signature}/{request_id}/{name:path}",
    ),
    *("/files/{file_id}/{name}", "/cdn/files/{file_id}/{name}", "/files/{file_id}"),
    *("/cdn/files/{file_id}", "/files/upload/{ticket}", "/v1/files/stream-{seal}"),
    "/files/multipart/{ticket}/complete",
    "/files/multipart/{ticket}/{number:int}",
    "/files/{file_id}/{name}/multipart/{ticket}/complete",
    "/files/{file_id}/{name}/multipart/{ticket}/{number:int}",
    "/cdn/files/{file_id}/{name}/multipart/{ticket}/complete",
    "/cdn/files/{file_id}/{name}/multipart/{ticket}/{number:int}",
    # As generations, whose way to a model it shares; they want forms.
    *("/openai/v1/images/edits", "/openai/v1/images/variations"),
    # Leads to the routes above.
    "/api/fal/proxy",
}


def every_route() -> list[Route | WebSocketRoute]:
    modules = (pages, health, openapi, files, webhooks, replicate, fal, openai)
    return [route for module in modules for route in module.ROUTES]


def test_the_tables_know_every_route() -> None:
    seen: set[str] = set()
    for method, path, _ in (*ASKED, *(("GET", path, None) for path in LISTS)):
        asked = path.partition("?")[0].format(**vars(NOBODYS))
        scope = {"type": "http", "method": method, "path": asked}
        found = next(each for each in every_route() if each.matches(scope)[0] is Match.FULL)
        seen.add(found.path)
    plain = {each.path for each in every_route() if isinstance(each, Route)}
    assert plain - seen - OTHERWISE == set()


async def test_no_route_tells_what_is_anothers_from_what_is_nobodys(strangers: Strangers) -> None:
    names = hers(strangers)
    for method, path, body in ASKED:
        told = await ask(strangers.http_bob, method, path, body, names)
        unknown = await ask(strangers.http_bob, method, path, body, nobodys(names))
        # Replicate's clients are told of a wrong version as of a wrong argument.
        assert told[0] == (422 if path == "/replicate/v1/predictions" else 404), (
            method,
            path,
            told,
        )
        assert told == unknown, (method, path)


async def ask(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    body: dict[str, object] | None,
    names: Names,
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text, with the names taken out again."""
    text = None if body is None else json.dumps(body).replace("{model}", names.model)
    answer = await http.request(
        method,
        path.format(**vars(names)),
        content=text,
        headers={"content-type": "application/json"},
    )
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("date", "x-fal-request-id", "x-request-id")
    }
    shown = answer.text
    for name, value in vars(names).items():
        shown = shown.replace(value, f"<{name}>")
    return answer.status_code, headers, shown


async def test_the_owner_is_answered(strangers: Strangers) -> None:
    names = hers(strangers)
    reads = [
        each
        for each in ASKED
        if each[0] == "GET" and "/versions/" not in each[1] and "test/tiny" not in each[1]
    ]
    for method, path, body in reads:
        status, _, text = await ask(strangers.http_alice, method, path, body, names)
        assert status == 200, (method, path, text[:300])
    listed = await strangers.http_alice.get("/openai/v1/models")
    assert SECRET_MODEL in listed.text


async def test_no_list_names_what_is_anothers(strangers: Strangers) -> None:
    names = hers(strangers)
    for path in LISTS:
        answer = await strangers.http_bob.get(path)
        assert answer.status_code == 200, path
        for name in (names.model, names.request, names.file):
            assert name not in answer.text, path


@pytest.mark.parametrize(
    "path",
    [
        "/run/{model}/realtime",
        "/run/{model}",
        "/ws/{model}",
        "/queue/{model}/requests/{request}/status/stream",
        "/queue/test/tiny/requests/{request}/status/stream",
    ],
)
async def test_no_websocket_opens_to_what_is_anothers(strangers: Strangers, path: str) -> None:
    base = strangers.url.replace("http://", "ws://")
    header = {"authorization": strangers.http_bob.headers["authorization"]}
    told = []
    names = hers(strangers)
    for each in (names, nobodys(names)):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(base + path.format(**vars(each)), additional_headers=header):
                pass
        body = (refused.value.response.body or b"").decode()
        for name, value in vars(each).items():
            body = body.replace(value, f"<{name}>")
        told.append((refused.value.response.status_code, body))
    assert told[0][0] == 404
    assert told[0] == told[1]


async def test_a_token_of_bobs_opens_nothing_of_alices(strangers: Strangers) -> None:
    wish = {"allowed_apps": ["secret", SECRET_MODEL], "token_expiration": 60}
    token = (await strangers.http_bob.post("/rest/tokens", json=wish)).json()
    for path in (f"/run/{SECRET_MODEL}", f"/run/{SECRET_MODEL}/stream"):
        answer = await strangers.nobody.post(f"{path}?fal_jwt_token={token}", json=INPUT)
        assert answer.status_code in (401, 404), path
    as_key = {"authorization": f"Key {token}"}
    again = await strangers.nobody.post("/rest/tokens", json=wish, headers=as_key)
    assert again.status_code == 401, "a token makes no other"


async def test_capabilities_open_one_thing_and_cannot_be_made_up(strangers: Strangers) -> None:
    result = await strangers.http_alice.get(
        f"/queue/{SECRET_MODEL}/requests/{strangers.request_id}"
    )
    link = httpx.URL(result.json()["images"][0]["url"])
    assert (await strangers.nobody.get(link)).status_code == 200
    _, _, signature, request_id, name = link.path.split("/")
    made_up = (
        f"/files/{turned(signature)}/{request_id}/{name}",
        f"/files/{signature}/{request_id}/1.png",
        f"/files/{signature}/{turned(request_id)}/{name}",
        f"/files/{strangers.file_id[:-1]}/x",
        f"/v1/files/stream-{'a' * 80}",
    )
    for path in made_up:
        assert (await strangers.http_bob.get(path)).status_code == 404, path
    ticket = await strangers.http_bob.put(f"/files/upload/{'a' * 80}", content=b"x")
    assert ticket.status_code == 403


# ---- gRPC ------------------------------------------------------------------------------------

Ask = Callable[[Names], Message]
BY_ID: dict[str, Ask] = {
    "Inference/Submit": lambda n: submission(n.model),
    "Inference/Run": lambda n: submission(n.model),
    "Inference/Quote": lambda n: submission(n.model),
    "Inference/Get": lambda n: inference_pb2.GetRequest(request_id=n.request),
    "Inference/Watch": lambda n: inference_pb2.WatchRequest(request_id=n.request),
    "Inference/Cancel": lambda n: inference_pb2.CancelRequest(request_id=n.request),
    "Inference/ReadArtifact": lambda n: inference_pb2.ReadArtifactRequest(
        uri=f"artifacts/{n.request}/0.png"
    ),
    "Catalog/GetModel": lambda n: catalog_pb2.GetModelRequest(id=n.model),
    "Catalog/GetEndpoint": lambda n: catalog_pb2.GetEndpointRequest(model=n.model),
    "Catalog/ListVersions": lambda n: catalog_pb2.ListVersionsRequest(model=n.model),
    "Fleet/Explain": lambda n: fleet_pb2.ExplainRequest(request_id=n.request),
    "Webhooks/Get": lambda n: webhooks_pb2.GetWebhookRequest(request_id=n.request),
    "Webhooks/Redeliver": lambda n: webhooks_pb2.RedeliverWebhookRequest(request_id=n.request),
}
OWN_ONLY: dict[str, Ask] = {
    "Billing/GetUsage": lambda n: billing_pb2.GetUsageRequest(tenant=n.tenant),
    "Billing/ListLedger": lambda n: billing_pb2.ListLedgerRequest(tenant=n.tenant),
    "Billing/GetAccount": lambda n: billing_pb2.GetAccountRequest(tenant=n.tenant),
    "Billing/ListAccounts": lambda n: billing_pb2.ListAccountsRequest(tenant=n.tenant),
    "Billing/ListAlerts": lambda n: billing_pb2.ListAlertsRequest(tenant=n.tenant),
}
"""Naming another tenant needs an admin, whether or not there is one of that name."""
TRACELESS: dict[str, Message] = {
    "Inference/List": inference_pb2.ListRequestsRequest(),
    "Catalog/ListModels": catalog_pb2.ListModelsRequest(),
    "Catalog/ListEndpoints": catalog_pb2.ListEndpointsRequest(),
    "Billing/GetPrices": billing_pb2.GetPricesRequest(),
    "Billing/ListLedger": billing_pb2.ListLedgerRequest(),
    "Webhooks/List": webhooks_pb2.ListWebhooksRequest(),
    "Webhooks/GetSecret": webhooks_pb2.GetWebhookSecretRequest(),
    "Accounts/WhoAmI": billing_pb2.WhoAmIRequest(),
}
STREAMS = {"Inference/Watch", "Inference/ReadArtifact"}
SESSIONS = {"Inference/Realtime", "Inference/RunMany"}


def short(method: str) -> str:
    return method.removeprefix("/quickthaw.v1.")


async def test_a_key_to_call_gets_nowhere_with_operators_methods(strangers: Strangers) -> None:
    tables = BY_ID.keys() | OWN_ONLY.keys() | TRACELESS.keys() | SESSIONS
    for method, scope in SCOPES.items():
        if scope is Scope.CALL:
            assert short(method) in tables, f"{method} is in no table of this test"
            continue
        call: Any = strangers.bob.channel.unary_unary(method)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"")
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED, method


async def answer_of(strangers: Strangers, method: str, message: Message) -> tuple[Any, str]:
    """The status and its text; OK and the bytes as text."""
    name = f"/quickthaw.v1.{method}"
    try:
        if method in STREAMS:
            stream: Any = strangers.bob.channel.unary_stream(name)
            parts = [part async for part in stream(message.SerializeToString())]
            return grpc.StatusCode.OK, b"".join(parts).decode("latin-1")
        call: Any = strangers.bob.channel.unary_unary(name)
        data = await call(message.SerializeToString())
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, data.decode("latin-1")


async def test_no_method_tells_what_is_anothers_from_what_is_nobodys(
    strangers: Strangers,
) -> None:
    names = hers(strangers)
    tables = (
        (BY_ID, grpc.StatusCode.NOT_FOUND),
        (OWN_ONLY, grpc.StatusCode.PERMISSION_DENIED),
    )
    for table, expected in tables:
        for method, ask_for in table.items():
            told = []
            for each in (names, nobodys(names)):
                code, text = await answer_of(strangers, method, ask_for(each))
                for name, value in vars(each).items():
                    text = text.replace(value, f"<{name}>")
                told.append((code, text))
            assert told[0][0] is expected, (method, told)
            assert told[0] == told[1], method


async def test_no_listing_method_names_what_is_anothers(strangers: Strangers) -> None:
    names = hers(strangers)
    for method, message in TRACELESS.items():
        code, text = await answer_of(strangers, method, message)
        assert code is grpc.StatusCode.OK, (method, text)
        for name in (names.model, names.request, "alice"):
            assert name not in text, method


async def test_sessions_refuse_what_is_anothers_as_what_is_nobodys(strangers: Strangers) -> None:
    told: list[str] = []
    for model in (SECRET_MODEL, "alice/secrex"):
        many = strangers.bob.inference.RunMany()
        run = inference_pb2.RunCall(tag=1, run=submission(model))
        await many.write(inference_pb2.RunManyRequest(calls=[run]))
        frame = await many.read()
        assert isinstance(frame, inference_pb2.RunManyResponse)
        end = frame.ends[0]
        many.cancel()
        realtime = strangers.bob.inference.Realtime()
        await realtime.write(inference_pb2.RealtimeRequest(tag="1", submit=submission(model)))
        answer = await realtime.read()
        assert isinstance(answer, inference_pb2.RealtimeResponse)
        refused = answer.refused
        realtime.cancel()
        assert end.refused.reason == refused.reason == "MODEL_NOT_FOUND"
        told.append(f"{end.refused}{refused}".replace(model, "<model>"))
    assert told[0] == told[1]


async def test_an_explanation_says_nothing_of_others(strangers: Strangers) -> None:
    request_id = await strangers.bob.submit()
    strangers.worker.finish(await strangers.worker.next_assign(), metered_ms=5)
    await strangers.bob.until_ended(request_id)
    explained = await strangers.bob.fleet.Explain(fleet_pb2.ExplainRequest(request_id=request_id))
    assert explained.decisions
    for decision in explained.decisions:
        assert not any(each.evict_digests for each in decision.candidates)
