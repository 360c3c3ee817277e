"""A worker host whose workers only keep a worker's promises: `python -m support.pretend_host`."""

import argparse
import os
import socket
import sys

from quickthaw.worker.host import Host
from quickthaw.worker.program import Birth
from support import pretend_worker
from support.pretend_program import PretendProgram


class CountedProgram(PretendProgram):
    def run(self, arguments: tuple[str, ...], birth: Birth) -> int:
        if birth.slab is not None:
            # Each life leaves a byte there, so that the next can tell how many there were.
            lives = os.fstat(birth.slab).st_size
            os.ftruncate(birth.slab, lives + 1)
            print(f"slab {lives}", file=sys.stderr)
        return pretend_worker.main(arguments)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    given, _ = parser.parse_known_args()
    control = socket.socket(fileno=given.control)
    control.setblocking(True)
    return Host(control, CountedProgram()).run()


if __name__ == "__main__":
    sys.exit(main())
