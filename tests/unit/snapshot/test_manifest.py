from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.format import Problem
from quickthaw.snapshot.manifest_json import encode_manifest, parse_manifest
from quickthaw.wire.errors import SnapshotCorrupt, SnapshotInvalid


@pytest.fixture
def document(store: SnapshotStore, digests: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.manifest_path(digests["flux"]).read_bytes())
    return found


def refuse(document: dict[str, Any]) -> SnapshotInvalid:
    with pytest.raises(SnapshotInvalid) as caught:
        parse_manifest(json.dumps(document).encode())
    return caught.value


def test_a_manifest_survives_being_read_and_written(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    for digest in digests.values():
        encoded = store.manifest_path(digest).read_bytes()
        assert encode_manifest(parse_manifest(encoded)) == encoded


UNSAFE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a class of anybody's": lambda m: m["components"][0].update({"class": "os.system"}),
    "a class of ours that is no model": lambda m: m["components"][0].update(
        {"class": "transformers.CLIPTokenizer"}
    ),
    "a pipeline class with code": lambda m: m["pipeline"].update({"class": "diffusers.X"}),
    "remote code": lambda m: m["components"][0]["config"].update(
        {"auto_map": {"AutoModel": "x.Y"}}
    ),
    "remote code deep inside": lambda m: m["components"][0]["config"].update(
        {"text_config": [{"auto_map": {}}]}
    ),
    "a kernel to download": lambda m: m["components"][0]["config"].update(
        {"_attn_implementation": "somebody/kernel"}
    ),
    "trust in remote code": lambda m: m["schedulers"][0]["config"].update(
        {"trust_remote_code": True}
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_would_run_or_fetch_code_is_refused(name: str, document: dict[str, Any]) -> None:
    UNSAFE[name](document)
    assert refuse(document).metadata["problem"] == Problem.UNSAFE


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a digest that climbs": lambda m: m["components"][0].update({"digest": "../../etc/passwd"}),
    "an absolute digest": lambda m: m["components"][0].update({"digest": "/etc/passwd"}),
    "an upper-case digest": lambda m: m["components"][0].update(
        {"digest": m["components"][0]["digest"].upper()}
    ),
    "a file that climbs": lambda m: m["processors"][0]["files"].update(
        {"../x.json": m["processors"][0]["files"]["tokenizer.json"]}
    ),
    "a file of code": lambda m: m["processors"][0]["files"].update(
        {"tokenizer.py": m["processors"][0]["files"]["tokenizer.json"]}
    ),
    "a blob without measure": lambda m: m["processors"][0]["files"]["tokenizer.json"].update(
        {"bytes": 1 << 50}
    ),
    "a later version": lambda m: m.update({"version": 3}),
    "another format": lambda m: m.update({"format": "zip"}),
    "an unknown field": lambda m: m.update({"surprise": 1}),
    "an unknown field of a component": lambda m: m["components"][0].update({"surprise": 1}),
    "a missing field": lambda m: m.pop("family"),
    "an odd component name": lambda m: m["components"][0].update({"name": "a/b"}),
    "a foreign attention": lambda m: m["components"][0].update({"attention": "org/kernel"}),
    "a short block list": lambda m: m["components"][0].update({"blocks": ""}),
    "blocks that are no hashes": lambda m: m["components"][0].update({"blocks": "z" * 32}),
    "an odd data start": lambda m: m["components"][0].update({"data_start": 100}),
    "negative bytes": lambda m: m["components"][0].update({"data_bytes": -1}),
    "bytes beyond any disk": lambda m: m["components"][0].update({"data_bytes": 1 << 60}),
    "two parts of one name": lambda m: m["components"][1].update(
        {"name": m["components"][0]["name"]}
    ),
    "no components": lambda m: m.update({"components": []}),
    "endless layers": lambda m: m["components"][0]["config"].update({"num_hidden_layers": 10**9}),
    "an argument that is no value": lambda m: m["pipeline"]["arguments"].update({"x": [1]}),
    "a preview of texts": lambda m: m.update(
        {"preview": {"weights": [["a", "b", "c"]], "bias": [0, 0, 0], "r2": 0}}
    ),
    "endless nesting": lambda m: m["components"][0]["config"].update(
        {"x": json.loads("[" * 40 + "]" * 40)}
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_manifest_that_breaks_the_format_is_refused(name: str, document: dict[str, Any]) -> None:
    BROKEN[name](document)
    assert refuse(document).metadata["problem"] == Problem.MANIFEST


def test_the_error_names_the_path_inside_the_manifest(document: dict[str, Any]) -> None:
    document["components"][1]["digest"] = "../up"
    assert "components[1].digest" in refuse(document).message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', '{"a": Infinity}'])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(SnapshotInvalid):
        parse_manifest(text.encode())


def test_a_manifest_edited_after_packing_is_corrupt(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    path = damaged.manifest_path(digests["sd"])
    path.write_bytes(path.read_bytes().replace(b'"title": ""', b'"title": "x"'))
    with pytest.raises(SnapshotCorrupt, match="changed after packing"):
        damaged.open(digests["sd"])
