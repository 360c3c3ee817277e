"""Messages that a platform answers with, for tests of the client and the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping

from quickthaw.v1 import catalog_pb2, inference_pb2, types_pb2

REQUEST_ID = "req_00000000000000000001"
SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cf"
    "c0000003010100c9fe92ef0000000049454e44ae426082"
)
"""One red pixel as PNG."""


def a_schema() -> Mapping[str, object]:
    side = {"type": "integer", "minimum": 8}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["prompt"],
        "properties": {
            "prompt": {"type": "string", "description": "What the picture shows."},
            "seed": {"type": ["integer", "null"], "default": None},
            "num_inference_steps": {"type": "integer", "default": 20},
            "guidance_scale": {"type": "number", "default": 7.5},
            "tiling": {"type": "boolean", "default": False},
            "image_size": {
                "anyOf": [
                    {"type": "object", "properties": {"width": side, "height": side}},
                    {"type": "string", "enum": ["square", "landscape"]},
                ]
            },
            "loras": {"type": "array"},
            "preview_every": {"type": "integer", "default": 0},
        },
    }


def a_model(model_id: str = "quickthaw/shapes") -> catalog_pb2.Model:
    return catalog_pb2.Model(
        id=model_id,
        aliases=["shapes"],
        family="sd",
        snapshot_digest="a" * 64,
        snapshot_uri="/snapshots",
        components=[catalog_pb2.Component(name="unet", digest="b" * 64, size_bytes=3 << 20)],
        working_bytes=1 << 20,
        input_schema_json=json.dumps(a_schema()),
        description="Shapes.",
    )


def an_artifact(content: bytes = PICTURE, name: str = "0.png") -> types_pb2.Artifact:
    return types_pb2.Artifact(
        uri=f"artifacts/{REQUEST_ID}/{name}",
        name=name,
        content_type="image/png",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        width=1,
        height=1,
    )


def a_receipt() -> types_pb2.Receipt:
    return types_pb2.Receipt(
        request_id=REQUEST_ID,
        model="quickthaw/shapes",
        worker_id="worker-0",
        gpu_type="cpu",
        queue_ms=12,
        load_ms=250,
        run_ms=1234,
        billed_ms=1234,
        rate_nanodollars_per_second=20_000,
        price_nanodollars=24_680,
        price_version="v1",
        attempts=1,
        start_tier=types_pb2.TIER_DISK,
        load=types_pb2.LoadReport(
            components=[
                types_pb2.ComponentLoad(
                    name="unet",
                    digest="b" * 64,
                    size_bytes=3 << 20,
                    source=types_pb2.TIER_DISK,
                    copier="direct",
                )
            ],
            manifest_seconds=0.003,
            skeleton_seconds=0.04,
            bytes_seconds=0.12,
            bind_seconds=0.002,
            encode_seconds=0.03,
            total_seconds=0.25,
            first_step_seconds=0.4,
        ),
        placement="the only worker",
        seed=7,
    )


def a_request(
    state: types_pb2.RequestState.ValueType = SUCCEEDED,
    failure: types_pb2.Failure | None = None,
    request_id: str = REQUEST_ID,
) -> types_pb2.Request:
    ended = state == SUCCEEDED
    return types_pb2.Request(
        request_id=request_id,
        tenant="default",
        model="quickthaw/shapes",
        state=state,
        input_json='{"prompt":"a red circle"}',
        submitted_unix_ms=1_700_000_000_000,
        finished_unix_ms=1_700_000_002_000,
        attempts=1,
        artifacts=[an_artifact()] if ended else [],
        failure=failure,
        receipt=a_receipt() if ended else None,
    )


def a_failure(reason: str, message: str = "it broke") -> types_pb2.Request:
    failure = types_pb2.Failure(reason=reason, message=message)
    return a_request(types_pb2.REQUEST_STATE_FAILED, failure)


def a_change(
    sequence: int, state: types_pb2.RequestState.ValueType, worker_id: str = "worker-0"
) -> inference_pb2.Event:
    change = inference_pb2.StateChange(state=state, worker_id=worker_id, attempt=1)
    return an_event(sequence, state_change=change)


def a_step(sequence: int, step: int, steps: int = 4) -> inference_pb2.Event:
    return an_event(sequence, progress=inference_pb2.Progress(step=step, steps=steps))


def a_preview(sequence: int, step: int = 1) -> inference_pb2.Event:
    preview = inference_pb2.Preview(
        step=step, content_type="image/png", data=PICTURE, width=1, height=1
    )
    return an_event(sequence, preview=preview)


def an_end(sequence: int, request: types_pb2.Request | None = None) -> inference_pb2.Event:
    return an_event(sequence, finished=request or a_request())


def an_event(
    sequence: int,
    state_change: inference_pb2.StateChange | None = None,
    progress: inference_pb2.Progress | None = None,
    preview: inference_pb2.Preview | None = None,
    finished: types_pb2.Request | None = None,
) -> inference_pb2.Event:
    return inference_pb2.Event(
        request_id=REQUEST_ID,
        sequence=sequence,
        unix_ms=1_700_000_000_000 + sequence,
        state_change=state_change,
        progress=progress,
        preview=preview,
        finished=finished,
    )


def a_run() -> list[inference_pb2.Event]:
    """The events of a request that goes well."""
    return [
        a_change(1, types_pb2.REQUEST_STATE_QUEUED, worker_id=""),
        a_change(2, types_pb2.REQUEST_STATE_LOADING),
        a_change(3, types_pb2.REQUEST_STATE_RUNNING),
        a_step(4, 1),
        a_preview(5, 1),
        a_step(6, 4),
        an_end(7),
    ]


async def chunks(
    content: bytes, artifact: types_pb2.Artifact, chunk_bytes: int = 16
) -> AsyncIterator[inference_pb2.ReadArtifactResponse]:
    """What ReadArtifact sends; the record goes with the first message."""
    yield inference_pb2.ReadArtifactResponse(data=content[:chunk_bytes], artifact=artifact)
    for start in range(chunk_bytes, len(content), chunk_bytes):
        yield inference_pb2.ReadArtifactResponse(data=content[start : start + chunk_bytes])
