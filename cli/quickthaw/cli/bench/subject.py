"""What is measured: one snapshot, its files, and what every tensor of it must be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import safe_open

from quickthaw.snapshot import SnapshotStore
from quickthaw.wire.errors import InvalidArgument

Fingerprints = Mapping[str, Mapping[str, str]]
"""By component and tensor name: `fingerprint` of each tensor."""

_PAD = "__pad__"


@dataclass(frozen=True, slots=True)
class Subject:
    """`folder` is where peers keep their conversions. `files` are by component, in load order."""

    name: str
    title: str
    store: Path
    digest: str
    folder: Path
    files: Mapping[str, Path]
    pipeline_class: str
    dtypes: Mapping[str, tuple[str, ...]]
    nbytes: int
    tensors: int
    expected: Fingerprints
    made: Mapping[str, frozenset[str]]
    """Tensors that are in our files only: modules make them themselves when they are built."""

    @property
    def eight_bit(self) -> bool:
        return any(dtype.startswith("F8") for each in self.dtypes.values() for dtype in each)


def open_subject(
    store: SnapshotStore, digest: str, folder: Path, *, name: str, title: str
) -> Subject:
    """Reads every byte once, by the safetensors library, to know what loads must give."""
    from quickthaw.snapshot.skeleton import build  # model libraries, which most lanes do without

    manifest = store.open(digest).manifest
    files: dict[str, Path] = {}
    for part in manifest.components:
        path = store.component_path(part.digest)
        if not path.is_file():
            raise InvalidArgument(
                f"component {part.name} has no file of its own in {store.root} (it is a delta, or "
                "elsewhere); peers read whole files: pack the model without --base first"
            )
        files[part.name] = path
    expected = _expected(folder / f"expected-{digest[:16]}.json", files)
    made = {
        part.name: frozenset(expected[part.name]) - build(part).state_dict().keys()
        for part in manifest.components
    }
    return Subject(
        name=name,
        title=title,
        store=store.root,
        digest=digest,
        folder=folder,
        files=files,
        pipeline_class=manifest.pipeline_class,
        dtypes={part.name: part.dtypes for part in manifest.components},
        nbytes=manifest.weight_bytes,
        tensors=sum(len(each) for each in expected.values()),
        expected=expected,
        made=made,
    )


def _expected(kept: Path, files: Mapping[str, Path]) -> Fingerprints:
    if kept.exists():
        found: dict[str, dict[str, str]] = json.loads(kept.read_text())
        return found
    expected = {name: _fingerprints(path) for name, path in files.items()}
    kept.write_text(json.dumps(expected))
    return expected


def _fingerprints(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return {
            name: fingerprint(file.get_tensor(name))
            for name in file.keys()  # noqa: SIM118  # safe_open is no mapping
            if not name.startswith(_PAD)
        }


def fingerprint(tensor: torch.Tensor) -> str:
    """Of a tensor on any device: its type and a hash of all of its bytes."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return (
        f"{str(tensor.dtype).removeprefix('torch.')}:{xxhash.xxh3_128_hexdigest(flat.numpy().data)}"
    )


def differences(
    expected: Mapping[str, str],
    found: Mapping[str, Any],
    *,
    without: frozenset[str] = frozenset(),
) -> list[str]:
    """What is wrong with one component's tensors, in words; empty if nothing is.

    `without`: names that the loader does not give.
    """
    wrong: list[str] = []
    for name, wanted in expected.items():
        if name in without:
            continue
        if (tensor := found.get(name)) is None:
            wrong.append(f"{name} is missing")
        elif (got := fingerprint(tensor)) != wanted:
            wrong.append(f"{name} is {got}, not {wanted}")
    return wrong
