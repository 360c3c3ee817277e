"""Models that are made of what their config names: of those kinds that there are here, no others.

Some of the kinds that a library knows fetch weights while they are made, from wherever their config
says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.classes import ALLOWED, Role, check_parts, resolve
from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.manifest_json import encode_manifest, parse_manifest
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import SnapshotInvalid
from support.hunyuan_models import tiny_hunyuan_i2v

FETCHES: JsonValue = {
    "model_type": "detr",
    "backbone": "somebody/weights",
    "use_pretrained_backbone": True,
}


def test_a_manifest_whose_model_has_a_part_of_another_kind_is_refused(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    manifest = store.open(pack(tiny_hunyuan_i2v(), store)).manifest
    assert parse_manifest(encode_manifest(manifest)) == manifest
    for name in ("vision_config", "text_config"):
        parts = tuple(
            replace(part, config={**part.config, name: FETCHES})
            if part.name == "text_encoder"
            else part
            for part in manifest.components
        )
        with pytest.raises(SnapshotInvalid, match=f"{name}: 'detr' is not what"):
            parse_manifest(encode_manifest(replace(manifest, components=parts)))


def test_a_folder_whose_model_has_a_part_of_another_kind_is_refused(tmp_path: Path) -> None:
    tiny_hunyuan_i2v().save_pretrained(tmp_path / "folder")
    path = tmp_path / "folder" / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vision_config": FETCHES}))
    with pytest.raises(SnapshotInvalid, match="vision_config: 'detr' is not what"):
        pack(tmp_path / "folder", tmp_path / "store")


def test_every_model_that_is_made_of_any_part_is_held_to_its_own() -> None:
    any_part: Any = transformers.AutoConfig
    open_to_all: set[tuple[str, str]] = set()
    for path, role in ALLOWED.items():
        config = getattr(resolve(path, role), "config_class", None) if role is Role.MODEL else None
        for name, kind in (getattr(config, "sub_configs", None) or {}).items():
            if kind is any_part:
                open_to_all.add((path, name))
    assert len(open_to_all) == 4
    for path, name in open_to_all:
        with pytest.raises(SnapshotInvalid, match="is not what"):
            check_parts(path, {name: FETCHES}, "here")
        with pytest.raises(SnapshotInvalid, match="is not what"):
            check_parts(path, {name: "somebody/weights"}, "here")
