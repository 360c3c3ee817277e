"""The same weights the way diffusers wants them: a folder for `from_pretrained`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.manifest import Component, Manifest

SHARDS = 4


def diffusers_folder(
    store: SnapshotStore, digest: str, weights: Mapping[str, Path], folder: Path, *, sharded: bool
) -> None:
    """Writes the pipeline of a snapshot to `folder`, which is replaced.

    `weights`: a safetensors file for each component. The folder links to them, or, `sharded`, has
    their tensors in a few files each, which is what parallel loading needs.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest = store.open(digest).manifest
    _write(folder / "model_index.json", _index(manifest))
    for part in manifest.components:
        (folder / part.name).mkdir()
        _write(folder / part.name / "config.json", _config(part))
        _weights(weights[part.name], part, folder / part.name, sharded)
    for scheduler in manifest.schedulers:
        kind = scheduler.class_path.rpartition(".")[2]
        (folder / scheduler.name).mkdir()
        _write(
            folder / scheduler.name / "scheduler_config.json",
            {"_class_name": kind, **scheduler.config},
        )
    for processor in manifest.processors:
        (folder / processor.name).mkdir()
        for name, blob in processor.files.items():
            (folder / processor.name / name).write_bytes(store.read_blob(blob))


def _index(manifest: Manifest) -> dict[str, Any]:
    index: dict[str, Any] = {"_class_name": manifest.pipeline_class.rpartition(".")[2]}
    parts = [(part.name, part.class_path) for part in manifest.components]
    parts += [(part.name, part.class_path) for part in manifest.schedulers]
    parts += [(part.name, part.class_path) for part in manifest.processors]
    for name, path in parts:
        library, _, kind = path.rpartition(".")
        index[name] = [library, kind]
    return {**index, **manifest.pipeline_arguments}


def _config(part: Component) -> dict[str, Any]:
    kind = part.class_path.rpartition(".")[2]
    if part.attention is None:
        return {"_class_name": kind, **part.config}
    return {"architectures": [kind], **part.config}


def _weights(source: Path, part: Component, folder: Path, sharded: bool) -> None:
    name = "diffusion_pytorch_model" if part.attention is None else "model"
    if not sharded:
        (folder / f"{name}.safetensors").symlink_to(source.resolve())
        return
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    total = sum(each.nbytes for each in tensors.values())
    shards: list[dict[str, Any]] = [{} for _ in range(SHARDS)]
    done = 0
    for key, tensor in tensors.items():
        shards[min(done * SHARDS // max(total, 1), SHARDS - 1)][key] = tensor
        done += tensor.nbytes
    shards = [shard for shard in shards if shard]
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"{name}-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, path.name)
    _write(
        folder / f"{name}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": places},
    )


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))
