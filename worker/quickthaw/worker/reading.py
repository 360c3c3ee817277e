"""Reading ahead: the bytes of the first models into the slab, while the worker is still importing.

Imports keep one core busy for seconds in which the disk has nothing to do. This runs in a process
of its own, with neither torch nor a device, and leaves in the slab's index what it has completed
and checked; the worker takes that over like the pinned tier of a predecessor. It may be killed at
any moment: what is not complete is not in the index.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from quickthaw.snapshot import Component, Slab, SnapshotStore
from quickthaw.snapshot.copiers import Source
from quickthaw.snapshot.copiers.choose import open_file
from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash
from quickthaw.snapshot.memory import PAGE_BYTES, round_up
from quickthaw.snapshot.slab import SlabFull
from quickthaw.wire.errors import QuickthawError, SnapshotCorrupt

logger = logging.getLogger(__name__)


def read_ahead(slab: Slab, store: SnapshotStore, digests: Sequence[str]) -> int:
    """How many bytes were read. Snapshots in this order, as far as the slab has room.

    What cannot be read is passed over: a load says what is wrong with it.
    """
    total = 0
    for digest in digests:
        try:
            for component in store.open(digest).manifest.components:
                total += _read_component(slab, store, component)
        except (QuickthawError, OSError) as error:
            logger.info("cannot read %s ahead: %s", digest[:12], error)
        except SlabFull:
            break
    return total


def _read_component(slab: Slab, store: SnapshotStore, component: Component) -> int:
    path = store.component_path(component.digest)
    # One that is there already stays claimed here, so that nothing of this makes room of it.
    if not path.is_file() or slab.claim(component.digest, component.data_bytes) is not None:
        return 0
    part = slab.allocate(component.data_bytes)
    source = open_file(path, component.data_start, component.file_bytes)
    try:
        with ThreadPoolExecutor(source.readers, thread_name_prefix="read-ahead") as pool:
            blocks = range(0, component.data_bytes, BLOCK_BYTES)
            list(pool.map(partial(_read_block, source, component, part.view), blocks))
    except BaseException:
        part.release()
        raise
    finally:
        source.close()
    part.list_as(component.digest, component.data_bytes)
    return component.data_bytes


def _read_block(source: Source, component: Component, room: memoryview, start: int) -> None:
    size = min(BLOCK_BYTES, component.data_bytes - start)
    target = room[start : start + round_up(size, PAGE_BYTES)]
    count = source.read_into(start, target, size)
    if count != size or block_hash(target[:size]) != component.block_hash(start // BLOCK_BYTES):
        raise SnapshotCorrupt(f"component {component.name} differs from its manifest at {start}")
