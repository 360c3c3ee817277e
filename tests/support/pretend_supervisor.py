"""A supervised worker that ends as it is told: `python -m support.pretend_supervisor ENDS...`.

Each life ends as the next word says: `ready:3` is ready and ends with status 3, `ready:-9` is
killed, `early:3` ends before it is ready. Without words left it waits for SIGTERM. What each life
finds in the slab, and leaves there, shows in its lines.
"""

import os
import signal
import sys

from quickthaw.wire.restarts import RestartPolicy
from quickthaw.worker.program import Birth
from quickthaw.worker.supervisor import Supervisor
from support.pretend_program import PretendProgram

POLICY = RestartPolicy(pause_seconds=0.0, pause_seconds_max=0.0, failed_starts_max=2)


class ScriptedProgram(PretendProgram):
    def run(self, arguments: tuple[str, ...], birth: Birth) -> int:
        assert birth.slab is not None
        life = os.fstat(birth.slab).st_size
        os.ftruncate(birth.slab, life + 1)
        print(f"life {life} pid {os.getpid()} parent {os.getppid()}", flush=True)
        if life >= len(arguments):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            birth.on_ready()
            print("waiting", flush=True)
            signal.sigwait({signal.SIGTERM})
            return 0
        kind, _, status = arguments[life].partition(":")
        if kind == "ready":
            birth.on_ready()
        if int(status) < 0:
            os.kill(os.getpid(), -int(status))
        return int(status)


if __name__ == "__main__":
    sys.exit(Supervisor(ScriptedProgram(), tuple(sys.argv[1:]), POLICY).run())
