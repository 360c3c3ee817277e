"""The worker as a program for hosts: imported and prepared once, run in every child."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator

from quickthaw.wire.errors import QuickthawError, SettingsInvalid
from quickthaw.worker.imports import import_families, import_light
from quickthaw.worker.program import Birth
from quickthaw.worker.settings import from_process

logger = logging.getLogger(__name__)


class WorkerProgram:
    """Imports what these families need."""

    def __init__(self, families: tuple[str, ...]) -> None:
        self._families = families

    def imports(self) -> Iterator[str]:
        # Torch and others ask whether there is a GPU. Through CUDA itself the answer would cost
        # every child its right to use one; NVML can tell as well.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        # Collections would go over a growing heap again and again: a quarter of the whole time.
        gc.disable()
        yield from import_light()
        yield from import_families(self._families)

    def read_ahead(self, arguments: tuple[str, ...], slab: int) -> int:
        return 0

    def prepare(self, arguments: tuple[str, ...]) -> None:
        return

    def run(self, arguments: tuple[str, ...], birth: Birth) -> int:
        try:
            settings = from_process(arguments)
        except SettingsInvalid as error:
            print(f"quickthaw-worker: {error.message}", file=sys.stderr)
            return 2
        from quickthaw.worker.life import live

        try:
            live(settings, birth)
        except QuickthawError as error:
            print(f"quickthaw-worker: {error.message}", file=sys.stderr)
            return 2 if isinstance(error, SettingsInvalid) else 1
        return 0
