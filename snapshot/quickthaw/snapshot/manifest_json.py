"""`manifest.json` to `Manifest` and back (FORMAT.md §5-§6).

Parsing trusts nothing: unknown keys, unknown classes, wrong types, unsafe settings and anything
over a limit raise `SnapshotInvalid` naming the path inside the manifest. A parsed `Manifest` is
therefore safe to build objects from.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from quickthaw.snapshot.classes import Role, check_class
from quickthaw.snapshot.fields import Fields, JsonValue, check_config
from quickthaw.snapshot.format import (
    DATA_ALIGNMENT,
    DATA_BYTES_MAX,
    HEADER_BYTES_MAX,
    ITEM_BYTES,
    Problem,
    invalid,
)
from quickthaw.snapshot.hashes import BLOCK_BYTES, BLOCK_HASH_HEX_CHARS, is_digest, sha256_hex
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


def encode_manifest(manifest: Manifest) -> bytes:
    """The file's bytes. Equal manifests give equal bytes, hence equal digests."""
    document = {
        "format": MANIFEST_FORMAT,
        "version": MANIFEST_VERSION,
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


def _component_document(part: Component) -> dict[str, Any]:
    return {
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


def manifest_digest(encoded: bytes) -> str:
    """The name of a snapshot: SHA-256 of its manifest's bytes."""
    return sha256_hex(encoded)


def parse_manifest(encoded: bytes, where: str = "manifest.json") -> Manifest:
    if len(encoded) > MANIFEST_BYTES_MAX:
        invalid(Problem.MANIFEST, where, f"larger than {MANIFEST_BYTES_MAX} bytes")
    fields = Fields.parse(encoded, where)
    if fields.text("format") != MANIFEST_FORMAT:
        fields.fail("format", f"must be {MANIFEST_FORMAT!r}")
    if (version := fields.natural("version")) != MANIFEST_VERSION:
        fields.fail("version", f"is {version}; this release reads version {MANIFEST_VERSION}")
    pipeline = fields.child("pipeline")
    manifest = Manifest(
        family=fields.text("family", chars_max=64),
        title=fields.text("title"),
        licence=fields.text("licence"),
        created_by=fields.text("created_by"),
        pipeline_class=check_class(pipeline.text("class"), Role.PIPELINE, pipeline.path),
        pipeline_arguments=_arguments(pipeline),
        components=tuple(map(_component, fields.children("components", COMPONENTS_MAX))),
        schedulers=tuple(map(_scheduler, fields.children("schedulers", COMPONENTS_MAX))),
        processors=tuple(map(_processor, fields.children("processors", COMPONENTS_MAX))),
        preview=_preview(fields),
        input_schema=fields.mapping("input_schema"),
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


def _component(fields: Fields) -> Component:
    name = fields.identifier("name")
    kind = fields.text("kind")
    if kind not in set(Kind):
        fields.fail("kind", f"is {kind!r}; known: {', '.join(Kind)}")
    attention = fields.optional_text("attention")
    if attention is not None and attention not in ATTENTION_KINDS:
        fields.fail("attention", f"is {attention!r}; allowed: {', '.join(sorted(ATTENTION_KINDS))}")
    config = fields.mapping("config")
    check_config(config, f"{fields.path}.config")
    dtypes = fields.texts("dtypes", len(ITEM_BYTES))
    if unknown := set(dtypes) - ITEM_BYTES.keys():
        fields.fail("dtypes", f"unknown: {', '.join(sorted(unknown))}")
    part = Component(
        name=name,
        kind=Kind(kind),
        class_path=check_class(fields.text("class"), Role.MODEL, f"{fields.path}.class"),
        config=config,
        attention=attention,
        dtypes=dtypes,
        digest=_digest(fields, "digest"),
        header_digest=_digest(fields, "header_digest"),
        data_start=fields.natural("data_start", 8 + HEADER_BYTES_MAX),
        data_bytes=fields.natural("data_bytes", DATA_BYTES_MAX),
        blocks=fields.text("blocks", chars_max=MANIFEST_BYTES_MAX),
        aliases=fields.text_mapping("aliases"),
    )
    if fields.natural("block_bytes") != BLOCK_BYTES or fields.text("block_hash") != "xxh3-128":
        fields.fail("block_hash", f"must be xxh3-128 over blocks of {BLOCK_BYTES} bytes")
    if part.data_start % DATA_ALIGNMENT or not part.data_start:
        fields.fail("data_start", f"must be a multiple of {DATA_ALIGNMENT}")
    _check_blocks(part, fields)
    fields.done()
    return part


def _check_blocks(part: Component, fields: Fields) -> None:
    count = -(-part.data_bytes // BLOCK_BYTES)
    if len(part.blocks) != count * BLOCK_HASH_HEX_CHARS or part.blocks.strip("0123456789abcdef"):
        fields.fail("blocks", f"must be {count} hashes of {BLOCK_HASH_HEX_CHARS} hex digits")


def _digest(fields: Fields, key: str) -> str:
    digest = fields.text(key)
    if not is_digest(digest):
        # Digests become file names, so this check is also what keeps paths inside the store.
        fields.fail(key, f"is {digest!r:.80}, not a SHA-256 in lower-case hex")
    return digest


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
        files[name] = Blob(_digest(blob, "digest"), blob.natural("bytes", BLOB_BYTES_MAX))
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
    if not manifest.components:
        invalid(Problem.MANIFEST, where, "components: must not be empty")


def _twice(name: str, where: str) -> NoReturn:
    invalid(Problem.MANIFEST, where, f"{name!r} names two parts of the pipeline")
