"""The worker: `python -m quickthaw.worker --scheduler HOST:PORT --key-file PATH ...`.

Prints one line on stdout when it can take requests:
`quickthaw-worker ready worker=ID metrics=http://HOST:PORT/metrics start_ms=N`, where N is the time
since the fork of the process that works. Exit codes: 0 after a drain, 1 if it cannot go on (a wrong
key, a device that cannot be had), 2 for settings that cannot work, 3 if its device keeps failing,
128+N if signal N keeps ending it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import configure_logs, read_sockets_directly
from quickthaw.worker.prepared import WorkerProgram
from quickthaw.worker.settings import from_process
from quickthaw.worker.supervisor import Supervisor


def main(arguments: Sequence[str] | None = None) -> int:
    given = tuple(sys.argv[1:] if arguments is None else arguments)
    try:
        settings = from_process(given)
    except SettingsInvalid as error:
        print(f"quickthaw-worker: {error.message}", file=sys.stderr)
        return 2
    configure_logs(settings.log_level, as_json=settings.log_json)
    read_sockets_directly()
    # An id that was made up here must be the same after a restart; the later flag counts.
    given = (*given, "--worker-id", settings.worker_id, "--data-dir", str(settings.data_dir))
    return Supervisor(WorkerProgram(settings.families), given).run()


if __name__ == "__main__":
    sys.exit(main())
