"""A process that fills a shared slab from a store, to be killed at any moment.

    python -m support.filling DESCRIPTOR SLAB_BYTES STORE

Prints the digest of each component that it has pinned, and begins anew when all are.
"""

from __future__ import annotations

import sys

from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore, Tier
from quickthaw.wire.errors import ResourceExhausted


def main() -> None:
    descriptor, slab_bytes, root = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    store = SnapshotStore(root)
    slab = Slab(slab_bytes, staging_bytes=4 << 20, touch_threads=1, descriptor=descriptor)
    loader = Loader(store, CpuDevice(1 << 30), slab, readers=2)
    print("ready", flush=True)
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
