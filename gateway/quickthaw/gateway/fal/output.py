"""A finished request as the model's output object in fal's shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quickthaw.gateway.artifacts import data_uri, read_data_uri
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.json_text import Json, JsonObject, object_or_empty
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.receipts import receipt_json
from quickthaw.v1 import inference_pb2, types_pb2


async def output_object(
    gateway: Gateway, credential: Credential, request: types_pb2.Request, *, sync_mode: bool
) -> JsonObject:
    """What `run` answers and `result` reads; the same each time for the same request."""
    artifacts = request.artifacts
    # Without a key of its own the gateway cannot read files for a link's holder.
    wants_inline = sync_mode or not gateway.own_credential
    total = sum(artifact.size_bytes for artifact in artifacts)
    if wants_inline and total <= gateway.limits.inline_bytes_max:
        urls = [await read_data_uri(gateway, credential, artifact) for artifact in artifacts]
    else:
        urls = [gateway.links.url(artifact.uri) for artifact in artifacts]
    files = [file_object(artifact, url) for artifact, url in zip(artifacts, urls, strict=True)]
    return output_with(request, files)


def output_with(request: types_pb2.Request, files: Sequence[JsonObject]) -> JsonObject:
    """The output object around its files, which are in the order of the request's artifacts."""
    by_kind = _by_kind(files)
    return {
        **object_or_empty(request.output_json),
        **by_kind,
        **_facts(request, by_kind),
        "receipt": receipt_json(request.receipt),
    }


def preview_object(
    preview: inference_pb2.Preview, input_: Mapping[str, Json], progress: JsonObject
) -> JsonObject:
    """A picture in the making, shaped like the output that it becomes."""
    picture: JsonObject = {
        "url": data_uri(preview.content_type, preview.data),
        "content_type": preview.content_type,
        "width": preview.width,
        "height": preview.height,
    }
    seed = input_.get("seed")
    return {
        "images": [picture],
        "prompt": input_.get("prompt", ""),
        **({"seed": seed} if seed is not None else {}),
        "progress": {**progress, "step": preview.step, "image_index": preview.image_index},
    }


def file_object(artifact: types_pb2.Artifact, url: str) -> JsonObject:
    file: JsonObject = {
        "url": url,
        "content_type": artifact.content_type,
        "file_name": artifact.name,
        "file_size": artifact.size_bytes,
    }
    if artifact.width and artifact.height:
        file |= {"width": artifact.width, "height": artifact.height}
    if artifact.duration_ms:
        file["duration"] = artifact.duration_ms / 1000
    return file


def _by_kind(files: Sequence[JsonObject]) -> JsonObject:
    """Pictures as a list, one video or one sound by itself: as fal's models of each kind answer."""
    kinds = [str(file["content_type"]).partition("/")[0] for file in files]
    output: JsonObject = {}
    for field, kind in (("video", "video"), ("audio_file", "audio")):
        if kind in kinds:
            output[field] = files[kinds.index(kind)]
    if "image" in kinds or not output:
        output["images"] = [
            file for file, kind in zip(files, kinds, strict=True) if kind == "image"
        ]
    return output


def _facts(request: types_pb2.Request, by_kind: JsonObject) -> JsonObject:
    input_ = object_or_empty(request.input_json)
    seed = request.receipt.seed if request.receipt.HasField("seed") else input_.get("seed")
    facts: JsonObject = {
        "timings": {"inference": request.receipt.run_ms / 1000},
        "prompt": input_.get("prompt", ""),
    }
    pictures = by_kind.get("images")
    if isinstance(pictures, list):
        output = object_or_empty(request.output_json)
        # Where nothing was found, it may be that nothing looked: most models have no checker.
        facts["has_nsfw_concepts"] = output.get("has_nsfw_concepts", [False] * len(pictures))
    return facts if seed is None else {**facts, "seed": seed}
