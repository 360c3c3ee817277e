"""What a stranger's snapshot could do to a process, one way at a time, and that it does not."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quickthaw.snapshot import SnapshotStore, Tier
from quickthaw.snapshot.fields import parse_object
from quickthaw.snapshot.format import parse_header
from quickthaw.snapshot.manifest_json import encode_manifest, parse_manifest
from quickthaw.snapshot.processor_files import check_processor_file
from quickthaw.snapshot.skeleton import build
from quickthaw.snapshot.strict_json import parse_json
from quickthaw.wire.errors import SnapshotCorrupt, SnapshotInvalid
from support.snapshots import a_loader


def header(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


# ---- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": 1, "a": 2}', '{"a": ' + "[" * 99_999],
)
def test_json_that_nothing_could_write_back_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text.encode(), 1000)


def test_json_is_refused_by_its_size_in_memory_before_it_is_parsed() -> None:
    with pytest.raises(ValueError, match="items"):
        parse_json(b"[" + b"[]," * 10_000 + b"0]", 1000)


def test_proper_surrogate_pairs_are_text_like_any_other() -> None:
    assert parse_json(b'{"a": "\\ud83d\\ude00"}', 10) == {"a": "\N{GRINNING FACE}"}


def test_finding_the_one_name_that_comes_twice_takes_no_longer_than_reading() -> None:
    names = "".join(f'"{index}":0,' for index in range(150_000))
    began = time.process_time()
    with pytest.raises(SnapshotInvalid, match="twice"):
        parse_header(header("{" + names + '"149999":0}'), 0, "part")
    assert time.process_time() - began < 5


def test_a_header_whose_length_prefix_lies_is_refused_as_other_readers_would() -> None:
    raw = struct.pack("<Q", 3) + b"{}      "
    with pytest.raises(SnapshotInvalid, match="does not say"):
        parse_header(raw, 0, "part")


def test_errors_quote_strangers_briefly_and_in_printable_characters() -> None:
    with pytest.raises(SnapshotInvalid) as caught:
        parse_object(b'{"a": 1}' + b"\x1b[2J" * 100_000, "a\x1b[31m" * 100_000)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 5000


# ---- tokenizers ----------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(store: SnapshotStore, digests: dict[str, str]) -> dict[str, Any]:
    """A sound tokenizer.json."""
    (processor,) = store.open(digests["sd"]).manifest.processors
    found: dict[str, Any] = json.loads(store.read_blob(processor.files["tokenizer.json"]))
    return found


def nested(depth: int) -> Any:
    step: Any = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


CHARSMAP = base64.b64encode(struct.pack("<I", 1 << 32 - 2)).decode()
TOKENIZERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a pattern that backtracks": lambda made: made.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a|a)*$"}, "behavior": "Isolated"}
    ),
    "a pattern that is none": lambda made: made.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": {}}, "behavior": "Isolated"}
    ),
    "a character map of gigabytes": lambda made: made.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": CHARSMAP}
    ),
    "steps in steps in steps": lambda made: made.update(normalizer=nested(40)),
    "a thousand steps": lambda made: made.update(
        decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}] * 1000}
    ),
    "padding to a billion tokens": lambda made: made.update(
        padding={"strategy": {"Fixed": 10**9}, "pad_id": 0}
    ),
    "an id beyond all vocabularies": lambda made: made["model"]["vocab"].update(a=1 << 40),
    "a piece of a megabyte": lambda made: made["model"]["vocab"].update({"a" * 1_000_000: 1}),
    "a million added tokens": lambda made: made.update(added_tokens=[{"id": 0}] * 5000),
    "another kind of model": lambda made: made["model"].update(type="WordPiece"),
    "a part that no tokenizer has": lambda made: made.update(code="import os"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_with(name: str, tokenizer: dict[str, Any]) -> None:
    check_processor_file("tokenizer.json", json.dumps(tokenizer).encode(), "tokenizer")
    TOKENIZERS[name](tokenizer)
    with pytest.raises(SnapshotInvalid):
        check_processor_file("tokenizer.json", json.dumps(tokenizer).encode(), "tokenizer")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenizer_config.json", {"extra_ids": 10**9}),
        ("tokenizer_config.json", {"model_max_length": 10**9}),
        ("tokenizer_config.json", {"tokenizer_file": "/etc/passwd"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x", None]}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 30: {"content": "x"}}}),
        ("tokenizer_config.json", {"chat_template": "x" * 1_000_000}),
        ("preprocessor_config.json", {"size": {"height": 10**9, "width": 1}}),
        ("vocab.json", {"a": 10**12}),
    ],
)
def test_settings_that_name_files_code_or_endless_sizes_are_refused(
    name: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(SnapshotInvalid):
        check_processor_file(name, json.dumps(settings).encode(), "processor")


@pytest.mark.parametrize("tokens", [10**30, 131_072])
def test_no_limit_at_all_is_an_allowed_length_and_so_is_that_of_large_models(tokens: int) -> None:
    settings = {"model_max_length": tokens, "extra_ids": 100}
    check_processor_file("tokenizer_config.json", json.dumps(settings).encode(), "processor")


SEES = {
    "size": {"longest_edge": 12_845_056, "shortest_edge": 3136},
    "max_pixels": 12_845_056,
    "patch_size": 14,
    "temporal_patch_size": 2,
}
BY_AREA = "transformers.Qwen2VLProcessor"


@pytest.mark.parametrize(
    "changed",
    [{"max_pixels": 10**9}, {"size": {"shortest_edge": 10**9}}, {"temporal_patch_size": 8000}],
)
def test_pictures_may_be_bounded_by_their_area_where_it_is_read_as_one(
    changed: dict[str, Any],
) -> None:
    def check(settings: dict[str, Any], kind: str) -> None:
        content = json.dumps(settings).encode()
        check_processor_file("preprocessor_config.json", content, "processor", kind)

    check(SEES, BY_AREA)
    with pytest.raises(SnapshotInvalid):
        check({**SEES, **changed}, BY_AREA)
    with pytest.raises(SnapshotInvalid):
        check(SEES, "transformers.CLIPImageProcessor")


# ---- modules -------------------------------------------------------------------------------------


def test_building_a_module_stops_when_it_outgrows_its_file(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    part = store.open(digests["sd"]).manifest.component("unet")
    greedy = replace(part, config={**part.config, "layers_per_block": 1000})
    began = time.process_time()
    with pytest.raises(SnapshotInvalid, match="than the file's 300 tensors"):
        build(greedy, tensors=300)
    assert time.process_time() - began < 3


# ---- manifests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "file:///etc/passwd"},
        {"properties": {"a": {"$ref": "#"}}},
        {"properties": {"a": {"pattern": "(a+)+$"}}},
        {"properties": 7},
        {"properties": {"a": 7}},
        {"$schema": "http://127.0.0.1/meta"},
        {},
        {"additionalProperties": False, "properties": {"num_images": {"type": "integer"}}},
        {"additionalProperties": False, "properties": {"image_urls": {"type": "array"}}},
        {
            "additionalProperties": False,
            "properties": {"num_inference_steps": {"type": "integer", "maximum": 10**9}},
        },
        {
            "additionalProperties": False,
            "properties": {
                "image_size": {
                    "additionalProperties": False,
                    "properties": {"width": {"type": "integer", "maximum": 10**6}},
                }
            },
        },
    ],
)
def test_an_input_schema_leads_nowhere(
    store: SnapshotStore, digests: dict[str, str], schema: dict[str, Any]
) -> None:
    manifest = replace(store.open(digests["sd"]).manifest, input_schema=schema)
    with pytest.raises(SnapshotInvalid, match="input_schema"):
        parse_manifest(encode_manifest(manifest))


def test_a_title_is_one_line_that_terminals_do_not_obey(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    manifest = replace(store.open(digests["sd"]).manifest, title="\x1b]0;owned\x07")
    with pytest.raises(SnapshotInvalid, match="printable"):
        parse_manifest(encode_manifest(manifest))


def lying_about(store: SnapshotStore, digest: str, name: str, **claims: Any) -> str:
    """Adds a snapshot that names a component of `digest` and says something else about it."""
    manifest = store.open(digest).manifest
    parts = tuple(
        replace(part, **claims) if part.name == name else part for part in manifest.components
    )
    with store.writing() as writer:
        return writer.add_manifest(replace(manifest, title="a lie", components=parts))


def test_a_manifest_that_lies_about_a_shared_component_does_not_spoil_it(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    honest = damaged.open(digests["sd"]).manifest.component("vae")
    with a_loader(damaged) as loader:
        loader.open(digests["sd"])
        for claims in ({"blocks": "0" * 32}, {"data_bytes": honest.data_bytes - 256}):
            lie = lying_about(damaged, digests["sd"], "vae", **claims)
            with pytest.raises((SnapshotInvalid, SnapshotCorrupt), match="vae"):
                loader.load(lie)
        with loader.load(digests["sd"]) as model:
            assert model.pipeline is not None
        loader.promote(honest.digest, Tier.PINNED)


def test_a_manifest_that_lies_about_its_components_does_not_come_into_a_store(
    damaged: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    lie = lying_about(damaged, digests["sd"], "vae", blocks="0" * 32)
    target = SnapshotStore(tmp_path / "target")
    with pytest.raises(SnapshotCorrupt, match="vae"):
        target.import_(damaged.root, lie)
    assert lie not in target
