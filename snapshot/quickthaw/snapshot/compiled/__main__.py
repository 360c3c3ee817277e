"""The process that compiles: one request on stdin, one line of JSON a block on stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from pathlib import Path

import torch

from quickthaw.snapshot.compiled.build import ComponentCompiler, NotCompilable
from quickthaw.snapshot.compiled.cache import CompiledCache
from quickthaw.snapshot.compiled.calls import from_json
from quickthaw.snapshot.store import SnapshotStore


def main() -> None:
    # What libraries print goes to stderr; this end of the pipe is for outcomes alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_asker, daemon=True).start()
    os.nice(request["niceness"])
    warnings.simplefilter("ignore")  # the compiler's advice to those who write models
    torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    cache = CompiledCache(Path(request["folder"]), Path(request["key_file"]), device)
    snapshot = SnapshotStore(request["store"]).open(request["digest"])
    compilers: dict[str, ComponentCompiler] = {}
    for component, block, dtypes, form in request["blocks"]:
        began, problem = time.monotonic(), ""
        try:
            if component not in compilers:
                part = snapshot.manifest.component(component)
                compilers[component] = ComponentCompiler(part, cache)
            compilers[component].compile(block, dtypes, from_json(form))
        except NotCompilable as error:
            problem = str(error)
        outcome = {
            "component": component,
            "block": block,
            "seconds": round(time.monotonic() - began, 3),
            "problem": problem,
        }
        answers.write(json.dumps(outcome) + "\n")


def _end_with_asker() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
