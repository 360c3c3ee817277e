"""Looking into a snapshot without loading it, and without a tensor library."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.format import read_header
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.reader import Snapshot, StoreReader
from quickthaw.wire.errors import NotFound


def locate(path: Path | str, digest: str | None = None) -> Snapshot:
    """The snapshot at `path`: a store, one of its `snapshots/<digest>` folders, or a manifest.

    `digest`, or enough of its start to be unique, chooses in a store that holds several.
    """
    place = Path(path)
    if place.name == "manifest.json":
        place = place.parent
    if place.parent.name == "snapshots" and (place / "manifest.json").is_file():
        return StoreReader(place.parent.parent).open(place.name)
    store = StoreReader(place)
    if not digest:
        return store.open(store.only())
    found = [each for each in store if each.startswith(digest)]
    if len(found) != 1:
        many = f"{len(found)} snapshots" if found else "no snapshot"
        raise NotFound(f"{many} in {place} with a digest that starts {digest[:64]!r}")
    return store.open(found[0])


def describe(path: Path | str, digest: str | None = None) -> dict[str, Any]:
    """What a snapshot holds, as JSON: for `snapshot inspect`. Arguments as for `locate`.

    Reads the manifest and the headers, no weights; raises `SnapshotInvalid` if they are broken.
    """
    snapshot = locate(path, digest)
    manifest = snapshot.manifest
    return {
        "digest": snapshot.digest,
        "store": str(snapshot.store.root),
        "family": manifest.family,
        "title": manifest.title,
        "licence": manifest.licence,
        "created_by": manifest.created_by,
        "pipeline": manifest.pipeline_class,
        "weight_bytes": manifest.weight_bytes,
        "working_set_bytes": manifest.working_set_bytes,
        "components": [_component(snapshot, part) for part in manifest.components],
        "schedulers": {part.name: part.class_path for part in manifest.schedulers},
        "processors": {
            part.name: {
                "class": part.class_path,
                "files": {name: blob.bytes for name, blob in sorted(part.files.items())},
            }
            for part in manifest.processors
        },
        "preview_r2": None if manifest.preview is None else manifest.preview.r2,
        "defaults": manifest.defaults,
        "input_schema": dict(manifest.input_schema),
    }


def _component(snapshot: Snapshot, part: Component) -> dict[str, Any]:
    # The header of a delta's base is the component's own.
    layers = () if part.delta is None else part.delta.layers
    path = snapshot.store.root / part.files()[0].path
    with os.fdopen(open_regular(path), "rb") as file:
        header = read_header(file, str(path))
    tensors = header.tensors
    return {
        "name": part.name,
        "kind": part.kind.value,
        "class": part.class_path,
        "digest": part.digest,
        "header_digest": part.header_digest,
        "file_bytes": part.file_bytes,
        "stored_bytes": layers[-1].file_bytes if layers else part.file_bytes,
        "data_bytes": part.data_bytes,
        "blocks": part.block_count,
        "dtypes": list(part.dtypes),
        "tensors": len(tensors),
        "parameters": sum(math.prod(each.shape) for each in tensors),
        "pads": len(header.entries) - len(tensors),
        "aliases": dict(part.aliases),
        "delta": part.delta and {"base": part.delta.base, "layers": len(layers)},
        "adapter": part.adapter
        and {
            "target": part.adapter.target,
            "rank": part.adapter.rank,
            "alpha": part.adapter.alpha,
            "scale": part.adapter.scale,
        },
        "quantization": None if part.quantization is None else part.quantization.method,
    }
