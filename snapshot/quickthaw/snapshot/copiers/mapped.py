"""Files that are memory already (tmpfs, memfd, hugetlbfs): mapped, and used where they are."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.memory import Memory
from quickthaw.snapshot.slab import REGISTER_BYTES, pieces
from quickthaw.wire.errors import ResourceExhausted

if TYPE_CHECKING:
    from quickthaw.snapshot.device import Device

_IN_MEMORY = frozenset({0x01021994, 0x958458F6})  # TMPFS_MAGIC (shmem and memfd too), HUGETLBFS
_STATFS_BYTES = 256  # more than struct statfs has; its first field, a long, is the type
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


def is_in_memory(descriptor: int) -> bool:
    """Whether a file's bytes are in host memory for good, on no disk."""
    found = (ctypes.c_byte * _STATFS_BYTES)()
    if _libc.fstatfs(descriptor, found) != 0:
        return False
    return ctypes.c_long.from_buffer(found).value in _IN_MEMORY


def map_component(path: Path, component: Component, device: Device) -> MappedRange | None:
    """The component's data section in place, pinned if the device wants that; None to read it.

    None for files on disk, which no driver pins in place, and where the mapping or the driver
    refuses. The file must not be cut while the mapping is in use: files of a store never are.
    """
    try:
        flags = os.O_RDWR if device.pins else os.O_RDONLY
        descriptor = open_regular(path, flags=flags)
    except OSError:  # read-only to us; pinning needs a writable mapping
        return None
    try:
        if not is_in_memory(descriptor) or os.fstat(descriptor).st_size < component.file_bytes:
            return None
        memory = Memory.of_file(
            descriptor, component.data_start, component.data_bytes, private=not device.pins
        )
        device.register(memory, REGISTER_BYTES)
    except (OSError, ResourceExhausted):
        return None
    finally:
        os.close(descriptor)
    return MappedRange(memory, device)


class MappedRange:
    """A `HostRange` over a mapped file. Unregistered when its last holder lets go."""

    def __init__(self, memory: Memory, device: Device) -> None:
        self._memory = memory
        self._device = device
        self._holders = 1
        self._lock = threading.RLock()  # a finalizer may come while this thread holds it

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    @property
    def view(self) -> memoryview:
        return self._memory.view

    @property
    def shared(self) -> bool:
        return self._holders > 1

    def retain(self) -> None:
        with self._lock:
            if self._holders == 0:
                raise RuntimeError("the mapping was given back already")
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            if self._holders == 0:
                raise RuntimeError("the mapping was given back already")
            self._holders -= 1
            if self._holders:
                return
        self._device.unregister(self._memory, REGISTER_BYTES)

    def release_later(self) -> None:
        """Nothing else takes this lock for longer than a moment, so later is now."""
        self.release()

    def list_as(self, digest: str, nbytes: int) -> None:
        """Nothing to say: the file says it."""

    def unlist(self) -> None:
        """Nothing was said."""

    def pieces(self, start: int, nbytes: int, piece_bytes: int) -> list[tuple[int, int]]:
        return pieces(start, nbytes, piece_bytes)
