"""The parts of a manifest that version 2 brought: deltas, adapters, eight-bit weights (FORMAT.md
§8-§10)."""

from __future__ import annotations

from typing import Any

from quickthaw.snapshot.fields import Fields
from quickthaw.snapshot.format import (
    DATA_ALIGNMENT,
    DATA_BYTES_MAX,
    HEADER_BYTES_MAX,
    NAME_CHARS_MAX,
)
from quickthaw.snapshot.hashes import is_digest
from quickthaw.snapshot.manifest import (
    ADAPTER_RANK_MAX,
    ADAPTER_SCALE_MAX,
    DELTA_LAYERS_MAX,
    QUANTIZATION_DTYPES,
    QUANTIZATION_METHODS,
    QUANTIZED_LAYERS_MAX,
    Adapter,
    Delta,
    DeltaLayer,
    Quantization,
)

NOT_OF_ADAPTERS = ("class", "config", "attention", "aliases")
"""Keys of a component that say how to build a module, which an adapter is not."""
_ALPHAS_MAX = 65536


def digest_of(fields: Fields, key: str) -> str:
    digest = fields.text(key)
    if not is_digest(digest):
        # Digests become file names, so this check is also what keeps paths inside the store.
        fields.fail(key, f"is {digest!r:.80}, not a SHA-256 in lower-case hex")
    return digest


def check_data_start(fields: Fields, data_start: int) -> None:
    if data_start % DATA_ALIGNMENT or not data_start:
        fields.fail("data_start", f"must be a multiple of {DATA_ALIGNMENT}")


def delta_document(delta: Delta) -> dict[str, Any]:
    return {
        "base": delta.base,
        "layers": [
            {
                "digest": layer.digest,
                "header_digest": layer.header_digest,
                "data_start": layer.data_start,
                "data_bytes": layer.data_bytes,
                "result": layer.result,
            }
            for layer in delta.layers
        ],
    }


def parse_delta(fields: Fields, component: str) -> Delta:
    """`component`: the digest that the chain must end at. Refuses chains that come back."""
    base = digest_of(fields, "base")
    layers = tuple(map(_layer, fields.children("layers", DELTA_LAYERS_MAX)))
    delta = Delta(base, layers)
    if not layers:
        fields.fail("layers", "must have at least one layer")
    if layers[-1].result != component:
        fields.fail("layers", f"end at {layers[-1].result}, not at the component {component}")
    if len(set(delta.stages)) != len(delta.stages):
        fields.fail("layers", "lead back to a component that the chain has passed")
    if len({layer.digest for layer in layers}) != len(layers):
        fields.fail("layers", "name one file twice")
    fields.done()
    return delta


def _layer(fields: Fields) -> DeltaLayer:
    layer = DeltaLayer(
        digest=digest_of(fields, "digest"),
        header_digest=digest_of(fields, "header_digest"),
        data_start=fields.natural("data_start", 8 + HEADER_BYTES_MAX),
        data_bytes=fields.natural("data_bytes", DATA_BYTES_MAX),
        result=digest_of(fields, "result"),
    )
    check_data_start(fields, layer.data_start)
    fields.done()
    return layer


def adapter_document(adapter: Adapter) -> dict[str, Any]:
    return {
        "target": adapter.target,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "alphas": dict(adapter.alphas),
        "scale": adapter.scale,
    }


def parse_adapter(fields: Fields) -> Adapter:
    adapter = Adapter(
        target=fields.identifier("target"),
        rank=fields.natural("rank", ADAPTER_RANK_MAX),
        alpha=_factor(fields, "alpha"),
        alphas=_alphas(fields.child("alphas")),
        scale=_factor(fields, "scale"),
    )
    if adapter.rank < 1:
        fields.fail("rank", "must be at least 1")
    fields.done()
    return adapter


def _alphas(fields: Fields) -> dict[str, float]:
    names = list(fields)
    if len(names) > _ALPHAS_MAX or any(len(name) > NAME_CHARS_MAX for name in names):
        fields.fail("*", f"must be at most {_ALPHAS_MAX} names of {NAME_CHARS_MAX} characters")
    return {name: _factor(fields, name) for name in names}


def _factor(fields: Fields, key: str) -> float:
    value = fields.number(key)
    if abs(value) > ADAPTER_SCALE_MAX:
        fields.fail(key, f"must lie between -{ADAPTER_SCALE_MAX:g} and {ADAPTER_SCALE_MAX:g}")
    return value


def quantization_document(quantization: Quantization) -> dict[str, Any]:
    return {"method": quantization.method, "layers": dict(quantization.layers)}


def parse_quantization(fields: Fields) -> Quantization:
    quantization = Quantization(fields.text("method"), fields.text_mapping("layers"))
    known = ", ".join(sorted(QUANTIZATION_METHODS))
    if quantization.method not in QUANTIZATION_METHODS:
        fields.fail("method", f"is {quantization.method!r:.80}; known: {known}")
    layers = quantization.layers
    if not 1 <= len(layers) <= QUANTIZED_LAYERS_MAX:
        fields.fail("layers", f"must be 1 to {QUANTIZED_LAYERS_MAX} layers, not {len(layers)}")
    for name, dtype in layers.items():
        if not name or len(name) > NAME_CHARS_MAX:
            fields.fail("layers", f"names a layer of {len(name)} characters")
        if dtype not in QUANTIZATION_DTYPES:
            allowed = ", ".join(sorted(QUANTIZATION_DTYPES))
            fields.fail("layers", f"{name!r:.200} computes in {dtype!r:.20}; allowed: {allowed}")
    fields.done()
    return quantization
