"""Deployments and versions as JSON."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Final

from quickthaw.gateway.json_text import JsonObject, object_or_empty
from quickthaw.gateway.links import Links
from quickthaw.gateway.receipts import receipt_json
from quickthaw.v1 import catalog_pb2, deployments_pb2, types_pb2

_KINDS: Final = {b"\xff\xd8": "jpeg", b"\x89PNG": "png", b"RIFF": "webp"}
"""Previews by their first bytes."""


def deployment_json(deployment: deployments_pb2.Deployment, public_url: str) -> JsonObject:
    """What is known of it without asking further."""
    spec = deployment.spec
    here = f"{public_url}/v1/deployments/{deployment.deployment_id}"
    error: JsonObject | None = None
    if deployment.HasField("failure"):
        error = {
            "type": deployment.failure.reason.lower(),
            "message": deployment.failure.message,
        }
    state = deployments_pb2.DeploymentState.Name(deployment.state)
    return {
        "id": deployment.deployment_id,
        "name": spec.model,
        "state": state.removeprefix("DEPLOYMENT_STATE_").lower(),
        "step": deployment.step,
        "progress": {
            "done_bytes": deployment.done_bytes,
            "total_bytes": deployment.total_bytes,
        },
        "attempts": deployment.attempts,
        "error": error,
        "base": spec.base or None,
        "family": spec.family or None,
        "files": [
            {"path": each.path, "id": each.file_id, "size_bytes": each.size_bytes}
            for each in spec.files
        ],
        "defaults": object_or_empty(spec.defaults_json),
        "version": deployment.version or None,
        "snapshot": deployment.snapshot_digest or None,
        "created_at": _moment(deployment.created_unix_ms),
        "updated_at": _moment(deployment.updated_unix_ms),
        "finished_at": _moment(deployment.finished_unix_ms),
        "urls": {"get": here, "cancel": f"{here}/cancel", "run": f"{public_url}/run/{spec.model}"},
    }


def self_test_json(
    request: types_pb2.Request, links: Links | None, preview: bytes | None
) -> JsonObject:
    """`links`: None for a gateway that cannot read files for a link's holder. `preview`: an encoded
    picture, for a video a moving one."""
    files = [] if links is None else [_file_json(each, links) for each in request.artifacts]
    pictures = [each["url"] for each in files if str(each["content_type"]).startswith("image/")]
    state = types_pb2.RequestState.Name(request.state).removeprefix("REQUEST_STATE_")
    return {
        "request_id": request.request_id,
        "state": state.lower(),
        "pictures": pictures,
        "files": [*files],
        "preview": None if preview is None else _data_uri(preview),
        "receipt": receipt_json(request.receipt) if request.HasField("receipt") else None,
    }


def _file_json(artifact: types_pb2.Artifact, links: Links) -> JsonObject:
    return {
        "url": links.url(artifact.uri),
        "content_type": artifact.content_type,
        "size_bytes": artifact.size_bytes,
        "width": artifact.width or None,
        "height": artifact.height or None,
        "duration": artifact.duration_ms / 1000 or None,
    }


def _data_uri(picture: bytes) -> str:
    kind = next((kind for start, kind in _KINDS.items() if picture.startswith(start)), "webp")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def version_json(version: catalog_pb2.ModelVersion) -> JsonObject:
    model = version.model
    return {
        "version": version.number,
        "current": version.current,
        "family": model.family,
        "snapshot": model.snapshot_digest,
        "size_bytes": sum(each.size_bytes for each in model.components),
        "title": model.description,
        "license": model.license,
        "created_at": _moment(model.registered_unix_ms),
        "input_schema": object_or_empty(model.input_schema_json),
    }


def _moment(unix_ms: int) -> str | None:
    if not unix_ms:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
