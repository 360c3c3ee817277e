"""`/v1/deployments` and `/v1/endpoints`: tenants' own models.

    POST   /v1/deployments                            deploy files that were uploaded
    GET    /v1/deployments                            the tenant's, newest first
    GET    /v1/deployments/{id}                       one: state, progress, self-test, input schema
    POST   /v1/deployments/{id}/cancel
    GET    /v1/endpoints/{owner}/{name}/versions      what a model has been, newest first
    POST   /v1/endpoints/{owner}/{name}/rollback      {"version": 1}
    DELETE /v1/endpoints/{owner}/{name}               with all its versions

Names of three parts (`owner/name/variant`) work as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import read_arguments
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.deployments.asked import read_spec, wrong
from quickthaw.gateway.deployments.render import deployment_json, self_test_json, version_json
from quickthaw.gateway.json_text import JsonObject, object_or_empty
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.respond import json_response
from quickthaw.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    deployments_pb2,
    deployments_pb2_grpc,
    types_pb2,
)
from quickthaw.wire.errors import ArtifactNotFound, ModelNotFound, NotFound, ResourceExhausted
from quickthaw.wire.uploads import PREVIEW_BYTES_MAX, preview_key

if TYPE_CHECKING:
    # The generated stubs' types know the asyncio channel under another name.
    from quickthaw.v1.catalog_pb2_grpc import CatalogAsyncStub
    from quickthaw.v1.deployments_pb2_grpc import DeploymentsAsyncStub

PAGE_MAX: Final = 100
CURSOR_CHARS_MAX: Final = 64
VERSION_MAX: Final = 2**53


async def create(request: Request) -> Response:
    gateway, credential = _caller(request)
    if gateway.uploads is None:
        raise HttpError(
            501, "this gateway keeps no files: it was started without --blob-store", "not_supported"
        )
    tenant = await gateway.platform.tenant(credential)
    spec = await read_spec(await read_arguments(request, gateway.limits), gateway.uploads, tenant)
    message = deployments_pb2.CreateDeploymentRequest(spec=spec)
    try:
        made: deployments_pb2.Deployment = await gateway.platform.call(
            credential, _deployments(gateway).Create, message, repeatable=False
        )
    except ResourceExhausted as error:
        if "quota" not in error.metadata:
            raise
        # No repetition helps, which is what a 429 would have clients try.
        raise HttpError(403, error.message, "quota_exceeded") from error
    return json_response(deployment_json(made, gateway.public_url), 201)


async def list_deployments(request: Request) -> Response:
    gateway, credential = _caller(request)
    message = deployments_pb2.ListDeploymentsRequest(
        page=types_pb2.Page(size=PAGE_MAX, token=_cursor(request))
    )
    answer: deployments_pb2.ListDeploymentsResponse = await gateway.platform.call(
        credential, _deployments(gateway).List, message
    )
    return json_response(
        {
            "deployments": [
                deployment_json(each, gateway.public_url) for each in answer.deployments
            ],
            "next_cursor": answer.next_page_token or None,
        }
    )


async def get(request: Request) -> Response:
    gateway, credential = _caller(request)
    found: deployments_pb2.Deployment = await gateway.platform.call(
        credential,
        _deployments(gateway).Get,
        deployments_pb2.GetDeploymentRequest(deployment_id=request.path_params["deployment_id"]),
    )
    return json_response(await _whole(gateway, credential, found))


async def cancel(request: Request) -> Response:
    gateway, credential = _caller(request)
    message = deployments_pb2.CancelDeploymentRequest(
        deployment_id=request.path_params["deployment_id"]
    )
    after: deployments_pb2.Deployment = await gateway.platform.call(
        credential, _deployments(gateway).Cancel, message
    )
    return json_response(deployment_json(after, gateway.public_url))


async def list_versions(request: Request) -> Response:
    gateway, credential = _caller(request)
    answer: catalog_pb2.ListVersionsResponse = await gateway.platform.call(
        credential,
        _catalog(gateway).ListVersions,
        catalog_pb2.ListVersionsRequest(
            model=_name(request), page=types_pb2.Page(size=PAGE_MAX, token=_cursor(request))
        ),
    )
    return json_response(
        {
            "name": _name(request),
            "versions": [version_json(each) for each in answer.versions],
            "next_cursor": answer.next_page_token or None,
        }
    )


async def rollback(request: Request) -> Response:
    gateway, credential = _caller(request)
    version = (await read_arguments(request, gateway.limits)).get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < VERSION_MAX:
        raise wrong(["version"], "must be the number of a version, as `versions` lists them")
    answer: catalog_pb2.RegisterResponse = await gateway.platform.call(
        credential,
        _catalog(gateway).Rollback,
        catalog_pb2.RollbackRequest(model=_name(request), number=version),
    )
    return json_response({"name": answer.model.id, "version": version, "changed": answer.changed})


async def delete(request: Request) -> Response:
    gateway, credential = _caller(request)
    message = catalog_pb2.RemoveRequest(id=_name(request))
    await gateway.platform.call(credential, _catalog(gateway).Remove, message)
    return Response(status_code=204)


# ---- within ------------------------------------------------------------------------------------


async def _whole(
    gateway: Gateway, credential: Credential, found: deployments_pb2.Deployment
) -> JsonObject:
    """With its self-test and, once it serves, its input schema."""
    answer = deployment_json(found, gateway.public_url)
    answer |= {"self_test": None, "input_schema": None}
    if found.self_test_request_id:
        links = gateway.links if gateway.own_credential else None
        try:
            tried = await gateway.platform.get(credential, found.self_test_request_id)
            preview = await _preview(gateway, found.self_test_request_id)
            answer["self_test"] = self_test_json(tried, links, preview)
        except NotFound:
            pass  # It was long ago.
    if found.state == deployments_pb2.DEPLOYMENT_STATE_READY:
        try:
            model: catalog_pb2.Model = await gateway.platform.call(
                credential,
                _catalog(gateway).GetModel,
                catalog_pb2.GetModelRequest(id=found.spec.model),
            )
            answer["input_schema"] = object_or_empty(model.input_schema_json)
        except ModelNotFound:
            pass  # It was deleted since.
    return answer


async def _preview(gateway: Gateway, request_id: str) -> bytes | None:
    if gateway.uploads is None:
        return None
    try:
        return await gateway.uploads.blobs.read_small(preview_key(request_id), PREVIEW_BYTES_MAX)
    except ArtifactNotFound:
        return None


def _caller(request: Request) -> tuple[Gateway, Credential]:
    return gateway_of(request), Credential(read_credential(request.headers))


def _name(request: Request) -> str:
    return "/".join(
        request.path_params[part]
        for part in ("owner", "name", "variant")
        if part in request.path_params
    )


def _cursor(request: Request) -> str:
    text = request.query_params.get("cursor", "")
    if len(text) > CURSOR_CHARS_MAX or not text.isprintable():
        raise HttpError(400, "cursor must be one that an answer gave", "bad_request")
    return text


def _deployments(gateway: Gateway) -> DeploymentsAsyncStub:
    return deployments_pb2_grpc.DeploymentsStub(gateway.platform.channel)


def _catalog(gateway: Gateway) -> CatalogAsyncStub:
    return catalog_pb2_grpc.CatalogStub(gateway.platform.channel)


_DEPLOYMENT = "/v1/deployments/{deployment_id}"
ROUTES = [
    Route("/v1/deployments", create, methods=["POST"]),
    Route("/v1/deployments", list_deployments, methods=["GET"]),
    Route(f"{_DEPLOYMENT}/cancel", cancel, methods=["POST"]),
    Route(_DEPLOYMENT, get, methods=["GET"]),
    *(
        route
        for below in ("/v1/endpoints/{owner}/{name}", "/v1/endpoints/{owner}/{name}/{variant}")
        for route in (
            Route(f"{below}/versions", list_versions, methods=["GET"]),
            Route(f"{below}/rollback", rollback, methods=["POST"]),
            Route(below, delete, methods=["DELETE"]),
        )
    ),
]
