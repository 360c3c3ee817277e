"""Processes that fill a shared slab from a store, to be killed at any moment.

    python -m support.filling DESCRIPTOR SLAB_BYTES STORE

For each line that it reads it forks one, which need not import everything anew: the child prints
its pid, then the digest of each component that it has pinned, and begins anew when all are. When it
is dead the parent says so, on a line of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore, Tier
from quickthaw.wire.errors import ResourceExhausted


def main() -> None:
    descriptor, slab_bytes, root = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            fill(descriptor, slab_bytes, root)
        os.waitpid(child, 0)
        print("\ndead", flush=True)  # the last line of one that is killed may have no end


def fill(descriptor: int, slab_bytes: int, root: Path) -> NoReturn:
    store = SnapshotStore(root)
    slab = Slab(slab_bytes, staging_bytes=4 << 20, touch_threads=1, descriptor=descriptor)
    loader = Loader(store, CpuDevice(1 << 30), slab, readers=2)
    print(os.getpid(), flush=True)
    while True:
        for digest in store:
            for part in store.open(digest).manifest.components:
                try:
                    loader.promote(part.digest, Tier.PINNED)
                except ResourceExhausted:
                    for other in loader.residency():
                        loader.evict(other, Tier.PINNED)
                    loader.promote(part.digest, Tier.PINNED)
                print(part.digest, flush=True)


if __name__ == "__main__":
    main()
