"""A real worker whose device breaks at the first picture: `python -m support.faulty_worker ...`.

On a GPU a kernel really reads where it must not. Elsewhere the error that torch makes of that is
raised where the kernels would run.
"""

import os
import sys
from typing import NoReturn

from quickthaw.worker.prepared import WorkerProgram
from quickthaw.worker.program import Birth
from quickthaw.worker.supervisor import Supervisor


class FaultyProgram(WorkerProgram):
    """Faulty in its first life only."""

    def __init__(self, families: tuple[str, ...]) -> None:
        super().__init__(families)
        self._lives, self._life = os.pipe()
        os.write(self._life, b"1")
        os.set_blocking(self._lives, False)

    def run(self, arguments: tuple[str, ...], birth: Birth) -> int:
        try:
            os.read(self._lives, 1)
        except BlockingIOError:
            return super().run(arguments, birth)
        from quickthaw.worker import drawing

        drawing.draw = break_down
        return super().run(arguments, birth)


def break_down(*_: object, **__: object) -> NoReturn:
    import torch

    if torch.cuda.is_available():
        torch.zeros(4, device="cuda")[torch.tensor([1 << 20], device="cuda")].sum().item()
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


if __name__ == "__main__":
    sys.exit(Supervisor(FaultyProgram(("noop", "sd")), tuple(sys.argv[1:])).run())
