"""Packing a component as a delta over one of another snapshot, where that is worth it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from quickthaw.snapshot.delta import base_of
from quickthaw.snapshot.finished import Finished
from quickthaw.snapshot.format import TensorSpec
from quickthaw.snapshot.hashes import is_digest
from quickthaw.snapshot.inspect import locate
from quickthaw.snapshot.manifest import (
    DELTA_LAYERS_MAX,
    Component,
    Delta,
    DeltaLayer,
)
from quickthaw.snapshot.reader import Snapshot, StoreReader
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.stored import StoredTensors, equal_bytes
from quickthaw.snapshot.tensors import contents
from quickthaw.snapshot.writer import StoreWriter, TensorHasher, WrittenComponent
from quickthaw.wire.errors import NotFound

DELTA_SHARE_MAX = 0.75
"""A delta that holds more of the component than this saves too little for what it complicates."""
_PREFIX_CHARS_MIN = 6
OnBytes = Callable[[int], None]


def base_snapshot(base: Path | str | None, store: SnapshotStore) -> Snapshot | None:
    """The snapshot that `base` names: a digest, or its start, in `store`, or a folder elsewhere.

    None for None and for a diffusers folder. What is elsewhere is brought into `store`, since a
    delta needs its base beside it. Raises `NotFound` for a digest that is not there.
    """
    if base is None:
        return None
    place = Path(base)
    if place.is_dir():
        if not (place / "snapshots").is_dir() and place.parent.name != "snapshots":
            return None
        found = locate(place)
        if found.store.root.resolve() != store.root.resolve():
            store.import_(found.store.root, found.digest)
        return store.open(found.digest)
    text = str(base)
    if is_digest(text) or (len(text) >= _PREFIX_CHARS_MIN and not text.strip("0123456789abcdef")):
        return locate(store.root, text)
    if not place.exists():
        raise NotFound(
            f"{text!r:.200} is neither a folder nor the digest of a snapshot in {store.root}"
        )
    return None


class DeltaPacker:
    """Adds components to a store, as deltas over those of `base` where they fit."""

    def __init__(
        self, writer: StoreWriter, base: Snapshot | None, finished: Finished | None = None
    ) -> None:
        self._writer = writer
        self._base = base
        self._finished = finished

    def add(
        self,
        name: str,
        specs: Sequence[TensorSpec],
        tensors: Mapping[str, torch.Tensor],
        on_bytes: OnBytes,
    ) -> tuple[WrittenComponent, Delta | None]:
        """`tensors` are in the order of `specs`; `on_bytes` is told what has been dealt with."""
        hasher = TensorHasher(specs)
        if self._finished is None:
            return self._add(name, hasher, specs, tensors, on_bytes)
        found = self._finished.find(name, hasher.header_digest)
        if found is not None:
            on_bytes(found[0].data_bytes)
            return found
        written, delta = self._add(name, hasher, specs, tensors, on_bytes)
        self._finished.note(name, written, delta)
        return written, delta

    def _add(
        self,
        name: str,
        hasher: TensorHasher,
        specs: Sequence[TensorSpec],
        tensors: Mapping[str, torch.Tensor],
        on_bytes: OnBytes,
    ) -> tuple[WrittenComponent, Delta | None]:
        below = self._match(name, hasher.header_digest)
        if below is None or self._base is None:
            return self._writer.add_component(specs, contents(tensors), on_bytes), None
        for piece in hasher.pieces(contents(tensors)):
            on_bytes(piece.nbytes)
        written = hasher.result()
        if written.digest == below.digest and self._base.store.holds(below):
            return written, below.delta
        if below.delta is not None and len(below.delta.layers) == DELTA_LAYERS_MAX:
            below = _bottom(below)
        changed = self._changed(self._base.store, below, tensors)
        if sum(spec.nbytes for spec in specs if spec.name in changed) > (
            written.data_bytes * DELTA_SHARE_MAX
        ):
            return self._writer.add_component(specs, contents(tensors)), None
        layer = self._writer.add_delta(
            [spec for spec in specs if spec.name in changed], contents(changed)
        )
        return written, _over(below, layer, written.digest)

    def _match(self, name: str, header_digest: str) -> Component | None:
        """The base's component of the same layout, that of the same name if there are several."""
        found = [
            part
            for part in (() if self._base is None else self._base.manifest.modules)
            if part.header_digest == header_digest
        ]
        found.sort(key=lambda part: part.name != name)
        return found[0] if found else None

    @staticmethod
    def _changed(
        store: StoreReader, below: Component, tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        with StoredTensors(store, below) as stored:
            return {
                name: tensor
                for (name, tensor), content in zip(tensors.items(), contents(tensors), strict=True)
                if not equal_bytes(content, stored[name])
            }


def _bottom(component: Component) -> Component:
    """The component that its chain stands on."""
    while component.delta is not None:
        component = base_of(component, component.delta)
    return component


def _over(below: Component, layer: WrittenComponent, result: str) -> Delta:
    line = DeltaLayer(
        digest=layer.digest,
        header_digest=layer.header_digest,
        data_start=layer.data_start,
        data_bytes=layer.data_bytes,
        result=result,
    )
    if below.delta is None:
        return Delta(below.digest, (line,))
    return Delta(below.delta.base, (*below.delta.layers, line))
