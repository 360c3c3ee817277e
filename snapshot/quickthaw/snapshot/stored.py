"""A component's tensors as bytes, straight from the files that hold them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from quickthaw.snapshot.delta import DeltaOrigin, read_layer_header
from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.format import Header
from quickthaw.snapshot.headers import read_component_header
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.reader import StoreReader

_COMPARED_BYTES = 4 * 1024 * 1024


class StoredTensors:
    """Maps the files of one component, a delta's chain included. Used as a context manager.

    Headers are checked against their digests, contents are not.
    """

    def __init__(self, store: StoreReader, component: Component) -> None:
        self._maps = ExitStack()
        self._places: dict[str, memoryview] = {}
        try:
            self._open(store, component)
        except BaseException:
            self.close()
            raise

    def _open(self, store: StoreReader, component: Component) -> None:
        path = store.component_path(component.digest)
        origins = (DeltaOrigin(store),)
        self.header: Header = read_component_header(path, component, origins)
        if component.delta is None or path.is_file():
            self._add(path, self.header, component.data_start)
            return
        base = store.component_path(component.delta.base)
        self._add(base, self.header, component.data_start)
        for layer in component.delta.layers:
            place = store.delta_path(layer.digest)
            descriptor = open_regular(place)
            try:
                header = read_layer_header(layer, descriptor, component.name)
            finally:
                os.close(descriptor)
            self._add(place, header, layer.data_start)

    def _add(self, path: Path, header: Header, data_start: int) -> None:
        """The file's tensors take the place of those of the files before it."""
        descriptor = open_regular(path)
        try:
            mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self._maps.callback(mapped.close)
        view = memoryview(mapped)
        self._maps.callback(view.release)
        for entry in header.tensors:
            piece = view[data_start + entry.start : data_start + entry.end]
            self._maps.callback(piece.release)
            self._places[entry.name] = piece

    def __getitem__(self, name: str) -> memoryview:
        """The tensor's bytes, valid until `close`."""
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        """Names in the order of the component's layout."""
        return (entry.name for entry in self.header.tensors)

    def close(self) -> None:
        self._places.clear()
        self._maps.close()

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def equal_bytes(one: memoryview, other: memoryview) -> bool:
    """Compares at the speed of memory, with little memory of its own."""
    if one.nbytes != other.nbytes:
        return False
    for start in range(0, one.nbytes, _COMPARED_BYTES):
        piece = slice(start, start + _COMPARED_BYTES)
        left = np.frombuffer(one[piece], np.uint8)
        if not np.array_equal(left, np.frombuffer(other[piece], np.uint8)):
            return False
    return True
