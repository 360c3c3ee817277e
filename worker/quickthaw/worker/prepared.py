"""The worker as a program for hosts: imported and prepared once, run in every child."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from quickthaw.snapshot import SnapshotStore
from quickthaw.wire.errors import QuickthawError, SettingsInvalid
from quickthaw.worker.device import choose_device, open_slab
from quickthaw.worker.families import NOOP
from quickthaw.worker.gpu_count import count_without_cuda
from quickthaw.worker.imports import import_families, import_light
from quickthaw.worker.program import Birth
from quickthaw.worker.reading import read_ahead
from quickthaw.worker.settings import WorkerSettings, from_process

if TYPE_CHECKING:
    from quickthaw.snapshot.prepared import Prepared

logger = logging.getLogger(__name__)


class WorkerProgram:
    """Imports what these families need."""

    def __init__(self, families: tuple[str, ...]) -> None:
        self._families = families
        self._drawing = tuple(name for name in families if name != NOOP)
        self._prepared: dict[Path, Prepared] = {}  # by the store's folder
        self._listed: dict[Path, frozenset[str]] = {}
        self._steps: dict[Path, Iterator[str]] = {}
        self._settings: dict[tuple[str, ...], WorkerSettings] = {}
        self._count_with_cuda: Callable[[], None] = lambda: None

    def imports(self) -> Iterator[str]:
        # Torch and others ask whether there is a GPU. Through CUDA itself the answer would cost
        # every child its right to use one; NVML can tell as well.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        # NVML, which says what a GPU is, numbers them by their slots; CUDA by their speed, unless
        # it is told so.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        # Collections would go over a growing heap again and again: a quarter of the whole time.
        gc.disable()
        yield from import_light()
        for part in import_families(self._families):
            if part == "torch":
                self._count_with_cuda = count_without_cuda()
            yield part

    def read_ahead(self, arguments: tuple[str, ...], slab: int) -> int:
        try:
            settings = from_process(arguments)
            if self._drawing:
                # The slab's first touch takes long too, and is done here with the rest.
                memory = open_slab(choose_device(settings), slab, None)
                count = read_ahead(memory, SnapshotStore(settings.snapshot_store), settings.prepare)
                logger.info("read %.1f MiB ahead", count / (1 << 20))
        except QuickthawError as error:
            logger.info("did not read ahead: %s", error.message)  # the worker says what is wrong
        return 0

    def prepare(self, arguments: tuple[str, ...]) -> None:
        try:
            settings = from_process(arguments)
        except SettingsInvalid:
            return  # the worker says so itself
        self._settings = {arguments: settings}
        if not self._drawing:
            return
        from quickthaw.snapshot.prepared import Prepared
        from quickthaw.snapshot.prewarm import prewarming

        folder, first = settings.snapshot_store, settings.prepare
        if folder not in self._prepared:
            self._prepared[folder] = Prepared(SnapshotStore(folder))
        steps = prewarming(
            self._prepared[folder], self._drawing, snapshots=first, snapshots_max=len(first)
        )
        try:
            for _step in steps:
                continue
        except OSError as error:
            logger.warning("cannot prepare what is in %s: %s", folder, error)

    def prepare_more(self) -> bool:
        try:
            return self._prepare_more()
        except OSError as error:  # a disk that is away; it is looked at again
            logger.warning("cannot look for snapshots to prepare: %s", error)
            return False

    def _prepare_more(self) -> bool:
        for folder, prepared in self._prepared.items():
            if (steps := self._steps.get(folder)) is None:
                listed = frozenset(prepared.store)
                if listed == self._listed.get(folder):
                    continue
                from quickthaw.snapshot.prewarm import prewarming

                self._listed[folder] = listed
                steps = self._steps[folder] = prewarming(prepared, self._drawing)
            if next(steps, None) is not None:
                return True
            del self._steps[folder]
        return False

    def run(self, arguments: tuple[str, ...], birth: Birth) -> int:
        from quickthaw.worker.life import live

        self._count_with_cuda()
        self._differ_from_siblings()
        try:
            settings = self._settings.get(arguments) or from_process(arguments)
            live(settings, birth, self._prepared.get(settings.snapshot_store))
        except QuickthawError as error:
            print(f"quickthaw-worker: {error.message}", file=sys.stderr)
            return 2 if isinstance(error, SettingsInvalid) else 1
        return 0

    def _differ_from_siblings(self) -> None:
        """Every child has the parent's random state; a request without a seed must not repeat."""
        random.seed()
        if self._drawing:
            import numpy
            import torch

            numpy.random.seed()
            # Of the CPU: that of a GPU comes with its context, which no parent has.
            torch.default_generator.seed()
