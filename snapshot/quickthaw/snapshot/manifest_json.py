"""`manifest.json` to `Manifest` and back (FORMAT.md §5-§6).

Parsing trusts nothing: unknown keys, unknown classes, wrong types, unsafe settings and anything
over a limit raise `SnapshotInvalid` naming the path inside the manifest. A parsed `Manifest` is
therefore safe to build objects from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from quickthaw.snapshot.classes import Role, check_class, check_parts
from quickthaw.snapshot.fields import Fields, JsonValue, check_config
from quickthaw.snapshot.format import (
    DATA_BYTES_MAX,
    HEADER_BYTES_MAX,
    ITEM_BYTES,
    Problem,
    invalid,
)
from quickthaw.snapshot.hashes import BLOCK_BYTES, BLOCK_HASH_HEX_CHARS, sha256_hex
from quickthaw.snapshot.input_schema import check_input_schema
from quickthaw.snapshot.manifest import (
    ATTENTION_KINDS,
    BLOB_BYTES_MAX,
    COMPONENTS_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_FORMAT,
    MANIFEST_VERSION,
    PROCESSOR_FILES,
    Blob,
    Component,
    Kind,
    Manifest,
    Preview,
    Processor,
    Scheduler,
)
from quickthaw.snapshot.manifest_parts import (
    NOT_OF_ADAPTERS,
    adapter_document,
    check_data_start,
    delta_document,
    digest_of,
    parse_adapter,
    parse_delta,
    parse_quantization,
    quantization_document,
)


def encode_manifest(manifest: Manifest) -> bytes:
    """The file's bytes. Equal manifests give equal bytes, hence equal digests."""
    document = {
        "format": MANIFEST_FORMAT,
        "version": _version(manifest),
        "family": manifest.family,
        "title": manifest.title,
        "licence": manifest.licence,
        "created_by": manifest.created_by,
        "pipeline": {
            "class": manifest.pipeline_class,
            "arguments": dict(manifest.pipeline_arguments),
        },
        "components": [_component_document(part) for part in manifest.components],
        "schedulers": [
            {"name": part.name, "class": part.class_path, "config": dict(part.config)}
            for part in manifest.schedulers
        ],
        "processors": [
            {
                "name": part.name,
                "class": part.class_path,
                "files": {
                    name: {"digest": blob.digest, "bytes": blob.bytes}
                    for name, blob in part.files.items()
                },
            }
            for part in manifest.processors
        ],
        "preview": None
        if manifest.preview is None
        else {
            "weights": manifest.preview.weights,
            "bias": manifest.preview.bias,
            "r2": manifest.preview.r2,
        },
        "input_schema": dict(manifest.input_schema),
        "working_set_bytes": manifest.working_set_bytes,
    }
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _version(manifest: Manifest) -> int:
    """The oldest that has every key the manifest needs, so that old readers read what they can."""
    extended = any(part.delta or part.adapter or part.quantization for part in manifest.components)
    return 2 if extended else 1


def _component_document(part: Component) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": part.name,
        "kind": part.kind.value,
        "class": part.class_path,
        "config": dict(part.config),
        "attention": part.attention,
        "dtypes": list(part.dtypes),
        "digest": part.digest,
        "header_digest": part.header_digest,
        "data_start": part.data_start,
        "data_bytes": part.data_bytes,
        "block_bytes": BLOCK_BYTES,
        "block_hash": "xxh3-128",
        "blocks": part.blocks,
        "aliases": dict(part.aliases),
    }
    if part.delta is not None:
        document["delta"] = delta_document(part.delta)
    if part.quantization is not None:
        document["quantization"] = quantization_document(part.quantization)
    if part.adapter is not None:
        document["adapter"] = adapter_document(part.adapter)
        for key in NOT_OF_ADAPTERS:
            del document[key]
    return document


def manifest_digest(encoded: bytes) -> str:
    """The name of a snapshot: SHA-256 of its manifest's bytes."""
    return sha256_hex(encoded)


def parse_manifest(encoded: bytes, where: str = "manifest.json") -> Manifest:
    if len(encoded) > MANIFEST_BYTES_MAX:
        invalid(Problem.MANIFEST, where, f"larger than {MANIFEST_BYTES_MAX} bytes")
    fields = Fields.parse(encoded, where)
    if fields.text("format") != MANIFEST_FORMAT:
        fields.fail("format", f"must be {MANIFEST_FORMAT!r}")
    version = fields.natural("version")
    if not 1 <= version <= MANIFEST_VERSION:
        fields.fail("version", f"is {version}; this release reads 1 to {MANIFEST_VERSION}")
    pipeline = fields.child("pipeline")
    manifest = Manifest(
        family=fields.text("family", chars_max=64),
        title=fields.line("title"),
        licence=fields.line("licence"),
        created_by=fields.line("created_by"),
        pipeline_class=check_class(pipeline.text("class"), Role.PIPELINE, pipeline.path),
        pipeline_arguments=_arguments(pipeline),
        components=tuple(
            _component(each, version) for each in fields.children("components", COMPONENTS_MAX)
        ),
        schedulers=tuple(map(_scheduler, fields.children("schedulers", COMPONENTS_MAX))),
        processors=tuple(map(_processor, fields.children("processors", COMPONENTS_MAX))),
        preview=_preview(fields),
        input_schema=check_input_schema(fields.mapping("input_schema"), f"{where}.input_schema"),
        working_set_bytes=fields.natural("working_set_bytes", DATA_BYTES_MAX),
    )
    pipeline.done()
    fields.done()
    _check_names(manifest, where)
    return manifest


def _arguments(pipeline: Fields) -> dict[str, JsonValue]:
    arguments = pipeline.mapping("arguments")
    for name, value in arguments.items():
        if isinstance(value, dict | list):
            pipeline.fail(f"arguments.{name}", "must be a plain value")
    check_config(arguments, f"{pipeline.path}.arguments")
    return arguments


def _component(fields: Fields, version: int) -> Component:
    name = fields.identifier("name")
    kind = fields.text("kind")
    known = set(Kind) if version >= 2 else set(Kind) - {Kind.ADAPTER}
    if kind not in known:
        fields.fail("kind", f"is {kind!r}; known: {', '.join(sorted(known))}")
    digest = digest_of(fields, "digest")
    delta = adapter = quantization = None
    if version >= 2 and "delta" in fields:
        delta = parse_delta(fields.child("delta"), digest)
    if kind == Kind.ADAPTER:
        adapter = parse_adapter(fields.child("adapter"))
        shape = _Shape("", {}, None, {})
    else:
        shape = _shape(fields)
        if version >= 2 and "quantization" in fields:
            quantization = parse_quantization(fields.child("quantization"))
    dtypes = fields.texts("dtypes", len(ITEM_BYTES))
    if unknown := set(dtypes) - ITEM_BYTES.keys():
        fields.fail("dtypes", f"unknown: {', '.join(sorted(unknown))}")
    part = Component(
        name=name,
        kind=Kind(kind),
        class_path=shape.class_path,
        config=shape.config,
        attention=shape.attention,
        dtypes=dtypes,
        digest=digest,
        header_digest=digest_of(fields, "header_digest"),
        data_start=fields.natural("data_start", 8 + HEADER_BYTES_MAX),
        data_bytes=fields.natural("data_bytes", DATA_BYTES_MAX),
        blocks=fields.text("blocks", chars_max=MANIFEST_BYTES_MAX),
        aliases=shape.aliases,
        delta=delta,
        adapter=adapter,
        quantization=quantization,
    )
    if fields.natural("block_bytes") != BLOCK_BYTES or fields.text("block_hash") != "xxh3-128":
        fields.fail("block_hash", f"must be xxh3-128 over blocks of {BLOCK_BYTES} bytes")
    check_data_start(fields, part.data_start)
    _check_blocks(part, fields)
    fields.done()
    return part


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a component's module is built."""

    class_path: str
    config: dict[str, JsonValue]
    attention: str | None
    aliases: dict[str, str]


def _shape(fields: Fields) -> _Shape:
    attention = fields.optional_text("attention")
    if attention is not None and attention not in ATTENTION_KINDS:
        fields.fail("attention", f"is {attention!r}; allowed: {', '.join(sorted(ATTENTION_KINDS))}")
    config = fields.mapping("config")
    check_config(config, f"{fields.path}.config")
    kind = check_class(fields.text("class"), Role.MODEL, f"{fields.path}.class")
    check_parts(kind, config, f"{fields.path}.config")
    return _Shape(
        kind,
        config,
        attention,
        fields.text_mapping("aliases"),
    )


def _check_blocks(part: Component, fields: Fields) -> None:
    count = -(-part.data_bytes // BLOCK_BYTES)
    if len(part.blocks) != count * BLOCK_HASH_HEX_CHARS or part.blocks.strip("0123456789abcdef"):
        fields.fail("blocks", f"must be {count} hashes of {BLOCK_HASH_HEX_CHARS} hex digits")


def _scheduler(fields: Fields) -> Scheduler:
    config = fields.mapping("config")
    check_config(config, f"{fields.path}.config")
    part = Scheduler(
        fields.identifier("name"),
        check_class(fields.text("class"), Role.SCHEDULER, f"{fields.path}.class"),
        config,
    )
    fields.done()
    return part


def _processor(fields: Fields) -> Processor:
    files: dict[str, Blob] = {}
    blobs = fields.child("files")
    for name in blobs:
        if name not in PROCESSOR_FILES:
            blobs.fail(
                name, f"is not a file name allowed here: {', '.join(sorted(PROCESSOR_FILES))}"
            )
        blob = blobs.child(name)
        files[name] = Blob(digest_of(blob, "digest"), blob.natural("bytes", BLOB_BYTES_MAX))
        blob.done()
    part = Processor(
        fields.identifier("name"),
        check_class(fields.text("class"), Role.PROCESSOR, f"{fields.path}.class"),
        files,
    )
    fields.done()
    return part


def _preview(fields: Fields) -> Preview | None:
    if (preview := fields.optional_child("preview")) is None:
        return None
    rows = preview.number_rows("weights", rows_max=256, columns=3)
    (bias,) = preview.number_rows("bias", rows_max=1, columns=3, flat=True)
    result = Preview(
        tuple((row[0], row[1], row[2]) for row in rows),
        (bias[0], bias[1], bias[2]),
        preview.number("r2"),
    )
    preview.done()
    return result


def _check_names(manifest: Manifest, where: str) -> None:
    names = [part.name for part in manifest.components]
    names += [part.name for part in manifest.schedulers]
    names += [part.name for part in manifest.processors]
    names += manifest.pipeline_arguments
    if len(names) != len(set(names)):
        _twice(next(name for name in names if names.count(name) > 1), where)
    if not manifest.modules:
        invalid(Problem.MANIFEST, where, "components: must have a part of the pipeline")
    for part in manifest.adapters:
        targets = {each.name for each in manifest.modules}
        if part.adapter is not None and part.adapter.target not in targets:
            invalid(
                Problem.MANIFEST,
                f"{where}.components.{part.name}.adapter.target",
                f"is {part.adapter.target!r:.80}, which is no component that an adapter can be "
                f"laid over; there are {', '.join(sorted(targets))}",
            )


def _twice(name: str, where: str) -> NoReturn:
    invalid(Problem.MANIFEST, where, f"{name!r} names two parts of the pipeline")
