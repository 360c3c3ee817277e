"""A receipt as JSON: an extra field of what dialects answer, which clients pass on untouched."""

from __future__ import annotations

from quickthaw.gateway.json_text import JsonObject
from quickthaw.v1 import types_pb2


def _tier_name(tier: types_pb2.Tier.ValueType) -> str:
    return types_pb2.Tier.Name(tier).removeprefix("TIER_").lower()


def receipt_json(receipt: types_pb2.Receipt) -> JsonObject:
    """The wire's names and units; numbers stay numbers."""
    answer: JsonObject = {
        "request_id": receipt.request_id,
        "model": receipt.model,
        "worker_id": receipt.worker_id,
        "gpu_type": receipt.gpu_type,
        "queue_ms": receipt.queue_ms,
        "load_ms": receipt.load_ms,
        "run_ms": receipt.run_ms,
        "billed_ms": receipt.billed_ms,
        "price_nanodollars": receipt.price_nanodollars,
        "rate_nanodollars_per_second": receipt.rate_nanodollars_per_second,
        "price_version": receipt.price_version,
        "attempts": receipt.attempts,
        "start_tier": _tier_name(receipt.start_tier),
        "placement": receipt.placement,
        "seed": receipt.seed if receipt.HasField("seed") else None,
        "waiver": receipt.waiver,
    }
    if receipt.HasField("load"):
        answer["load"] = _load_json(receipt.load)
    return answer


def _load_json(load: types_pb2.LoadReport) -> JsonObject:
    return {
        "components": [
            {
                "name": component.name,
                "digest": component.digest,
                "size_bytes": component.size_bytes,
                "source": _tier_name(component.source),
                "copier": component.copier,
                "read_seconds": component.read_seconds,
                "copy_seconds": component.copy_seconds,
            }
            for component in load.components
        ],
        "manifest_seconds": load.manifest_seconds,
        "skeleton_seconds": load.skeleton_seconds,
        "bytes_seconds": load.bytes_seconds,
        "bind_seconds": load.bind_seconds,
        "encode_seconds": load.encode_seconds,
        "total_seconds": load.total_seconds,
        "first_step_seconds": load.first_step_seconds,
        "compiled": load.compiled,
    }
