"""The adapters of a packed LoRA by themselves: its other components stay where they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import torch

from quickthaw.snapshot.format import TENSOR_ALIGNMENT, Problem, invalid, parse_header
from quickthaw.snapshot.manifest import Component, Manifest
from quickthaw.snapshot.manifest_json import parse_manifest
from quickthaw.snapshot.memory import round_up
from quickthaw.snapshot.remote import RemoteSettings, open_remote
from quickthaw.snapshot.remote.base import Remote
from quickthaw.snapshot.remote.pull import fetch_manifest
from quickthaw.snapshot.remote.source import component_path
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tensors import views
from quickthaw.wire.errors import InvalidArgument, NotFound, SnapshotCorrupt


def read_packed(
    digest: str, store: SnapshotStore, uri: str, bytes_max: int, settings: RemoteSettings
) -> list[tuple[Component, dict[str, torch.Tensor]]]:
    """The adapters of the snapshot `digest`, from `store` or from `uri`, in the order of laying.

    Raises `InvalidArgument` for a snapshot without adapters or with more than `bytes_max` of them,
    `NotFound`, `SnapshotInvalid`, `SnapshotCorrupt`, and what remotes raise.
    """
    if digest in store:
        return _adapters(store.open(digest).manifest, _InStore(store), digest, bytes_max)
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path) if parts.scheme else uri)
        if not folder.is_absolute() or not folder.is_dir() or digest not in SnapshotStore(folder):
            raise NotFound(f"snapshot {digest[:12]} is not on this worker, nor in {folder}")
        there = SnapshotStore(folder)
        return _adapters(there.open(digest).manifest, _InStore(there), digest, bytes_max)
    remote = open_remote(uri, settings)
    try:
        manifest = parse_manifest(fetch_manifest(remote, digest), f"{remote.name}/{digest[:12]}")
        return _adapters(manifest, _InRemote(remote), digest, bytes_max)
    finally:
        remote.close()


class _Place(Protocol):
    def read(self, part: Component, target: bytearray) -> int:
        """Fills `target` from the start of the component's file; how many bytes came."""
        ...


class _InStore:
    def __init__(self, store: SnapshotStore) -> None:
        self._store = store

    def read(self, part: Component, target: bytearray) -> int:
        path = self._store.component_path(part.digest)
        try:
            with path.open("rb") as file:
                return file.readinto(target)
        except FileNotFoundError as error:
            raise NotFound(f"component {part.digest[:12]} is not in {self._store.root}") from error


class _InRemote:
    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def read(self, part: Component, target: bytearray) -> int:
        with memoryview(target) as view:
            return self._remote.read_into(component_path(part.digest), 0, view)


def _adapters(
    manifest: Manifest, place: _Place, digest: str, bytes_max: int
) -> list[tuple[Component, dict[str, torch.Tensor]]]:
    parts = manifest.adapters
    if not parts:
        raise InvalidArgument(f"snapshot {digest[:12]} is no LoRA: it has no adapters")
    total = sum(part.data_start + part.data_bytes for part in parts)
    if total > bytes_max:
        raise InvalidArgument(f"its adapters have {total} bytes, and {bytes_max} are taken")
    return [(part, _tensors(part, place)) for part in parts]


def _tensors(part: Component, place: _Place) -> dict[str, torch.Tensor]:
    where = f"component {part.name}"
    if part.delta is not None:
        invalid(Problem.MANIFEST, where, "an adapter is stored in full, not as a delta")
    size = part.data_start + part.data_bytes
    # As long as whole alignments, so that it can be seen as items of any type.
    data = bytearray(size)
    if place.read(part, data) != size or hashlib.sha256(data).hexdigest() != part.digest:
        raise SnapshotCorrupt(f"{where}: its file is not what its SHA-256 says; pack it again")
    header = parse_header(bytes(data[: part.data_start]), part.data_bytes, where)
    data += bytes(round_up(part.data_bytes, TENSOR_ALIGNMENT) - part.data_bytes)
    content = torch.frombuffer(data, dtype=torch.uint8, offset=part.data_start)
    return views(content, header)
