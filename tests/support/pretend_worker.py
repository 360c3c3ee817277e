"""A process that keeps a worker's promises to whoever starts it, and nothing else.

Run as `python -m support.pretend_worker`, with a worker's arguments. What its id says decides how
it behaves: `...-broken` ends before it is ready, as does any whose key is `broken`,
`...-stubborn` ignores SIGTERM, and `...-forking` starts a process that outlives it, with its pipes.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

OUTLIVES_SECONDS = 10.0


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--worker-id", required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    arguments, _ = parser.parse_known_args(given)
    name = arguments.worker_id
    if name.endswith("-broken") or arguments.key_file.read_text().strip() == "broken":
        print("the device is on fire", file=sys.stderr)
        return 3
    signals = {signal.SIGTERM} if not name.endswith("-stubborn") else {signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    if name.endswith("-stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if name.endswith("-forking") and os.fork() == 0:
        signal.sigtimedwait({signal.SIGUSR1}, OUTLIVES_SECONDS)
        os._exit(0)
    key = arguments.key_file.read_text().strip()
    print(f"key {key} pid {os.getpid()}", file=sys.stderr, flush=True)
    print(f"quickthaw-worker ready worker={name} metrics=http://127.0.0.1:1/metrics", flush=True)
    signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
