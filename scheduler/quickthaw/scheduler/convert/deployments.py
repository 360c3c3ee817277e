"""Deployments on the wire."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping

from quickthaw.scheduler.catalog import CatalogModel
from quickthaw.scheduler.convert.endpoints import VISIBILITY_TO_WIRE
from quickthaw.scheduler.convert.models import catalog_model
from quickthaw.scheduler.convert.words import checked_text, invalid, storable
from quickthaw.scheduler.core.model import Visibility
from quickthaw.scheduler.deployment_rules import (
    FAILURE_CHARS_MAX,
    STEP_CHARS_MAX,
    Deployment,
    DeploymentFile,
    DeploymentSpec,
    DeploymentState,
    Failed,
    Progress,
)
from quickthaw.v1 import catalog_pb2, deployments_pb2, types_pb2

FILES_MAX = 1_000
FILE_BYTES_MAX = 1 << 45
JSON_CHARS_MAX = 64 * 1024
SCALE_MAX = 100.0
_NAME_CHARS_MAX = 200
_MODEL = re.compile(r"[a-z0-9._-]+/[a-z0-9._-]+(/[a-z0-9._-]+)?")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,199}){0,3}")
_FILE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DTYPES = ("", "float16", "bfloat16", "float32")
_QUANTIZE = ("", "fp8", "int8")

_STATES: Mapping[DeploymentState, deployments_pb2.DeploymentState.ValueType] = {
    DeploymentState.WAITING: deployments_pb2.DEPLOYMENT_STATE_WAITING,
    DeploymentState.PACKING: deployments_pb2.DEPLOYMENT_STATE_PACKING,
    DeploymentState.TESTING: deployments_pb2.DEPLOYMENT_STATE_TESTING,
    DeploymentState.READY: deployments_pb2.DEPLOYMENT_STATE_READY,
    DeploymentState.FAILED: deployments_pb2.DEPLOYMENT_STATE_FAILED,
    DeploymentState.CANCELLED: deployments_pb2.DEPLOYMENT_STATE_CANCELLED,
}
_STATES_FROM_WIRE = {int(wire): ours for ours, wire in _STATES.items()}
_VISIBILITY_FROM_WIRE: Mapping[int, str] = {
    int(catalog_pb2.VISIBILITY_UNSPECIFIED): "",
    int(catalog_pb2.VISIBILITY_PRIVATE): Visibility.PRIVATE.value,
    int(catalog_pb2.VISIBILITY_SHARED): Visibility.SHARED.value,
}


def deployment_spec(message: deployments_pb2.DeploymentSpec, *, by_admin: bool) -> DeploymentSpec:
    """Raises InvalidArgument, naming the field."""
    if len(message.model) > _NAME_CHARS_MAX or _MODEL.fullmatch(message.model) is None:
        raise invalid(
            "spec.model",
            "must be owner/name[/variant] of a-z, 0-9, '.', '_' and '-', not "
            f"{message.model[:_NAME_CHARS_MAX]!r}",
        )
    for name, value, known in (
        ("dtype", message.dtype, _DTYPES),
        ("quantize", message.quantize, _QUANTIZE),
    ):
        if value not in known:
            raise invalid(f"spec.{name}", f"must be one of {', '.join(filter(None, known))}")
    if not math.isfinite(message.scale) or not -SCALE_MAX <= message.scale <= SCALE_MAX:
        raise invalid("spec.scale", f"must be -{SCALE_MAX:g} to {SCALE_MAX:g}")
    visibility = _VISIBILITY_FROM_WIRE.get(message.visibility)
    if visibility is None:
        raise invalid("spec.visibility", "must be PRIVATE or SHARED")
    files = _files(message.files)
    if not message.base and len(files) == 1:
        raise invalid(
            "spec.base", "is required for a LoRA or a single file: the model that it was made for"
        )
    return DeploymentSpec(
        model=message.model,
        files=files,
        base=checked_text("spec.base", message.base, chars_max=_NAME_CHARS_MAX),
        family=checked_text("spec.family", message.family, chars_max=64),
        defaults_json=_json_object("spec.defaults_json", message.defaults_json),
        test_json=_json_object("spec.test_json", message.test_json),
        component=checked_text("spec.component", message.component, chars_max=200),
        dtype=message.dtype,
        quantize=message.quantize,
        scale=message.scale,
        title=checked_text("spec.title", message.title, chars_max=1_000),
        license=checked_text("spec.license", message.license, chars_max=200),
        visibility=visibility,
        by_admin=by_admin,
    )


def _files(messages: Iterable[deployments_pb2.DeploymentFile]) -> tuple[DeploymentFile, ...]:
    files: dict[str, DeploymentFile] = {}
    for index, each in enumerate(messages):
        where = f"spec.files[{index}]"
        if index >= FILES_MAX:
            raise invalid("spec.files", f"must be at most {FILES_MAX}")
        if _PATH.fullmatch(each.path) is None:
            raise invalid(
                f"{where}.path",
                "must be names of letters, digits, '.', '_' and '-', at most four "
                "with '/' between them, none beginning with '.'",
            )
        if each.path in files:
            raise invalid(f"{where}.path", f"{each.path!r} is there twice")
        if _FILE_ID.fullmatch(each.file_id) is None:
            raise invalid(f"{where}.file_id", "must be the id of an upload")
        if not 0 < each.size_bytes <= FILE_BYTES_MAX:
            raise invalid(f"{where}.size_bytes", f"must be 1 to {FILE_BYTES_MAX}")
        files[each.path] = DeploymentFile(each.path, each.file_id, each.size_bytes)
    if not files:
        raise invalid("spec.files", "must be one file, or all files of a diffusers folder")
    return tuple(files.values())


def _json_object(field: str, text: str) -> str:
    if len(text) > JSON_CHARS_MAX:
        raise invalid(field, f"must be at most {JSON_CHARS_MAX} characters long")
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise invalid(field, f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise invalid(field, "must be a JSON object")
    return storable(text)


def spec_message(spec: DeploymentSpec) -> deployments_pb2.DeploymentSpec:
    visibility = catalog_pb2.VISIBILITY_UNSPECIFIED
    if spec.visibility:
        visibility = VISIBILITY_TO_WIRE[Visibility(spec.visibility)]
    return deployments_pb2.DeploymentSpec(
        model=spec.model,
        base=spec.base,
        family=spec.family,
        files=[
            deployments_pb2.DeploymentFile(
                path=each.path, file_id=each.file_id, size_bytes=each.size_bytes
            )
            for each in spec.files
        ],
        defaults_json=spec.defaults_json,
        test_json=spec.test_json,
        component=spec.component,
        dtype=spec.dtype,
        quantize=spec.quantize,
        scale=spec.scale,
        title=spec.title,
        license=spec.license,
        visibility=visibility,
    )


def deployment_message(deployment: Deployment) -> deployments_pb2.Deployment:
    progress = deployment.progress
    message = deployments_pb2.Deployment(
        deployment_id=deployment.deployment_id,
        tenant=deployment.tenant,
        spec=spec_message(deployment.spec),
        state=_STATES[deployment.state],
        step=progress.step,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        attempts=deployment.attempts,
        created_unix_ms=deployment.created_ms,
        updated_unix_ms=deployment.updated_ms,
        finished_unix_ms=deployment.finished_ms,
        version=progress.version,
        snapshot_digest=progress.snapshot_digest,
        self_test_request_id=progress.self_test_request_id,
    )
    if progress.failure_reason:
        message.failure.reason = progress.failure_reason
        message.failure.message = progress.failure_message
    return message


def states(wire: Iterable[int]) -> list[DeploymentState]:
    """Raises InvalidArgument."""
    try:
        return [_STATES_FROM_WIRE[state] for state in wire]
    except KeyError as error:
        raise invalid("states", f"{error.args[0]} is no state") from error


def working_state(wire: int) -> DeploymentState:
    """What a packer may report. Raises InvalidArgument."""
    state = _STATES_FROM_WIRE.get(wire)
    if state not in (DeploymentState.PACKING, DeploymentState.TESTING):
        raise invalid("state", "must be PACKING or TESTING")
    return state


def progress(message: deployments_pb2.ReportDeploymentRequest) -> Progress:
    return Progress(
        step=storable(message.step)[:STEP_CHARS_MAX],
        done_bytes=max(0, message.done_bytes),
        total_bytes=max(0, message.total_bytes),
        self_test_request_id=checked_text(
            "self_test_request_id", message.self_test_request_id, chars_max=64
        ),
    )


def failure(message: types_pb2.Failure) -> Failed:
    return Failed(
        checked_text("failure.reason", message.reason, chars_max=64, required=True),
        storable(message.message)[:FAILURE_CHARS_MAX],
        message.retryable,
    )


def packed_model(
    message: catalog_pb2.Model, name: str, aliases: Iterable[str], now_ms: int
) -> CatalogModel:
    """Under the deployment's name, whatever the packer calls it."""
    renamed = catalog_pb2.Model()
    renamed.CopyFrom(message)
    renamed.id = name
    del renamed.aliases[:]
    renamed.aliases.extend(aliases)
    return catalog_model(renamed, now_ms)
