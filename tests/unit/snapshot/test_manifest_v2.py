"""What version 2 of the manifest brought, and what of it is refused (FORMAT.md §8-§9)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.format import Problem
from quickthaw.snapshot.manifest_json import encode_manifest, parse_manifest
from quickthaw.wire.errors import SnapshotInvalid

BASE, MIDDLE = "b" * 64, "c" * 64


def layer(number: int, result: str) -> dict[str, Any]:
    return {
        "digest": f"{number:064x}",
        "header_digest": "e" * 64,
        "data_start": 4096,
        "data_bytes": 100,
        "result": result,
    }


@pytest.fixture
def document(store: SnapshotStore, digests: dict[str, str]) -> dict[str, Any]:
    """Its first component is a delta of two layers; its last is an adapter of the UNet."""
    found: dict[str, Any] = json.loads(store.manifest_path(digests["sd"]).read_bytes())
    parts = found["components"]
    parts[0]["delta"] = {
        "base": BASE,
        "layers": [layer(1, MIDDLE), layer(2, parts[0]["digest"])],
    }
    adapter = {key: parts[0][key] for key in ("dtypes", "header_digest", "data_start")}
    adapter |= {key: parts[0][key] for key in ("data_bytes", "blocks", "block_bytes", "block_hash")}
    adapter |= {
        "name": "lora_unet",
        "kind": "adapter",
        "digest": "d" * 64,
        "adapter": {"target": "unet", "rank": 4, "alpha": 8.0, "alphas": {"a.b": 2}, "scale": 0.5},
    }
    return {**found, "version": 2, "components": [*parts, adapter]}


def encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def test_deltas_and_adapters_survive_being_read_and_written(document: dict[str, Any]) -> None:
    manifest = parse_manifest(encoded(document))
    delta, adapter = manifest.components[0].delta, manifest.components[-1].adapter
    assert delta is not None
    assert delta.stages == (BASE, MIDDLE, manifest.components[0].digest)
    assert adapter is not None
    assert (adapter.target, adapter.rank, adapter.scale) == ("unet", 4, 0.5)
    assert (adapter.alpha, adapter.alphas) == (8.0, {"a.b": 2.0})
    assert [part.name for part in manifest.adapters] == ["lora_unet"]
    assert parse_manifest(encode_manifest(manifest)) == manifest
    assert json.loads(encode_manifest(manifest))["version"] == 2


def test_files_are_those_of_the_base_and_the_layers(document: dict[str, Any]) -> None:
    manifest = parse_manifest(encoded(document))
    first = manifest.components[0]
    files = {file.path: file.nbytes for file in manifest.files()}
    assert files[f"components/{BASE}.safetensors"] == first.file_bytes
    assert files[f"deltas/{1:064x}.safetensors"] == 4196
    assert files[f"deltas/{2:064x}.safetensors"] == 4196
    assert f"components/{first.digest}.safetensors" not in files
    assert f"components/{'d' * 64}.safetensors" in files


def test_a_manifest_without_new_keys_is_written_as_version_1(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    before = store.manifest_path(digests["sd"]).read_bytes()
    assert json.loads(before)["version"] == 1
    assert encode_manifest(parse_manifest(before)) == before


def in_delta(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda m: change(m["components"][0]["delta"])


def in_adapter(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda m: change(m["components"][-1]["adapter"])


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a delta in version 1": lambda m: (m.update({"version": 1}), m["components"].pop()),
    "an adapter in version 1": lambda m: (
        m.update({"version": 1}),
        m["components"][0].pop("delta"),
    ),
    "a delta that names itself": lambda m: m["components"][0]["delta"].update(
        {"base": m["components"][0]["digest"]}
    ),
    "a cycle": lambda m: m["components"][0]["delta"]["layers"][0].update({"result": BASE}),
    "a chain too deep": in_delta(
        lambda d: d.update(
            {"layers": [layer(n, f"{n + 90:064x}") for n in range(4)] + d["layers"][1:]}
        )
    ),
    "a chain that ends elsewhere": in_delta(lambda d: d["layers"].pop()),
    "one file over itself": in_delta(lambda d: d["layers"][1].update({"digest": f"{1:064x}"})),
    "no layers": in_delta(lambda d: d.update({"layers": []})),
    "a base that climbs": in_delta(lambda d: d.update({"base": "../../etc/passwd"})),
    "a layer beyond any disk": in_delta(lambda d: d["layers"][0].update({"data_bytes": 1 << 60})),
    "a layer off the page": in_delta(lambda d: d["layers"][0].update({"data_start": 100})),
    "an unknown key of a layer": in_delta(lambda d: d["layers"][0].update({"url": "x"})),
    "an adapter of nothing": in_adapter(lambda a: a.update({"target": "unet_9"})),
    "an adapter of an adapter": in_adapter(lambda a: a.update({"target": "lora_unet"})),
    "a rank of nothing": in_adapter(lambda a: a.update({"rank": 0})),
    "a rank beyond measure": in_adapter(lambda a: a.update({"rank": 1 << 40})),
    "a scale beyond measure": in_adapter(lambda a: a.update({"scale": 1e300})),
    "an alpha that is no number": in_adapter(lambda a: a.update({"alphas": {"x": "y"}})),
    "an adapter with a class": lambda m: m["components"][-1].update({"class": "os.system"}),
    "an adapter without its key": lambda m: m["components"][-1].pop("adapter"),
    "a module with an adapter's key": lambda m: m["components"][0].update(
        {"adapter": m["components"][-1]["adapter"]}
    ),
    "nothing but adapters": lambda m: m.update({"components": m["components"][-1:]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_breaks_version_2_is_refused(name: str, document: dict[str, Any]) -> None:
    HOSTILE[name](document)
    with pytest.raises(SnapshotInvalid) as caught:
        parse_manifest(encoded(document))
    assert caught.value.metadata["problem"] == Problem.MANIFEST
