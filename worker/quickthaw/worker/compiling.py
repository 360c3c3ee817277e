"""Compiled code on this worker: used where there is some, made where the settings say so.

Code is only ever a faster way to the same picture. Whatever is wrong with it (none yet, made for
another machine, damaged, refused by the compiler) the run goes on without, a line is logged and a
counter says so.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path

import torch
from torch import nn

from quickthaw.snapshot import Component, Kind, LoadedModel
from quickthaw.snapshot.compiled import (
    BuildOutcome,
    BuildPlace,
    CompiledBlocks,
    CompiledCache,
    Missing,
    Usage,
    build_missing,
)
from quickthaw.snapshot.compiled.builder import check_compiler
from quickthaw.wire.errors import QuickthawError
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

BUILD_SECONDS_MAX = 3600.0
BUILD_NICENESS = 10
HOPELESS_MAX = 4096
"""Blocks remembered that the compiler refused."""


class CompiledMode(StrEnum):
    """Of `--compiled`."""

    OFF = "off"
    USE = "use"
    BUILD = "build"


class CompiledMetrics:
    """What the worker counts; made by whoever has the registry."""

    def __init__(
        self,
        calls: Callable[[str, int], None] = lambda how, count: None,
        refused: Callable[[], None] = lambda: None,
        builds: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self.calls = calls
        """How block calls ran (`compiled`, `eager`, `failed`), and how many."""
        self.refused = refused
        """Code is there that must not be used."""
        self.builds = builds
        """A block was compiled (`made`) or not (`failed`)."""


class CompiledRuns:
    """Compiled code for the denoisers of this worker's models. Thread-safe.

    One build runs at a time, in a process of low priority; what is missing meanwhile is noted again
    by a later run.
    """

    def __init__(
        self,
        mode: CompiledMode,
        place: BuildPlace,
        device: torch.device,
        store: Path,
        metrics: CompiledMetrics,
    ) -> None:
        """Raises Untrusted if the cache's folder or key are not ours alone."""
        self._building = mode is CompiledMode.BUILD
        if self._building:
            check_compiler()
        self._place = place
        self._store = store
        self._metrics = metrics
        self.cache = CompiledCache(place.folder, place.key_file, device, metrics.refused)
        self._lock = threading.Lock()  # guards what follows
        self._blocks: weakref.WeakKeyDictionary[nn.Module, tuple[str, CompiledBlocks]] = (
            weakref.WeakKeyDictionary()
        )
        self._hopeless: set[Missing] = set()
        self._end_build: Callable[[], None] | None = None
        self._build: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def running(self, loaded: LoadedModel) -> Iterator[Usage]:
        """Around one run of a model; the usage is complete at its end."""
        usages: list[Usage] = []
        total = Usage()
        with ExitStack() as stack:
            for part in loaded.manifest.modules:
                if part.kind is Kind.DENOISER:
                    blocks = self._of(part, getattr(loaded.pipeline, part.name))
                    usages.append(stack.enter_context(blocks.running()))
            try:
                yield total
            finally:
                for each in usages:
                    total.add(each)
                self._count(total)
        if self._building and total.missing:
            self._begin_build(loaded.digest, total.missing)

    def _of(self, part: Component, module: nn.Module) -> CompiledBlocks:
        """Modules outlive models: the next one may have other types in the same module."""
        with self._lock:
            known = self._blocks.get(module)
            if known is None or known[0] != part.header_digest:
                known = (part.header_digest, CompiledBlocks(part, module, self.cache))
                self._blocks[module] = known
            return known[1]

    def _count(self, usage: Usage) -> None:
        self._metrics.calls("compiled", usage.compiled_calls)
        self._metrics.calls("eager", usage.eager_calls)
        self._metrics.calls("failed", usage.failed_calls)

    def _begin_build(self, digest: str, missing: list[Missing]) -> None:
        with self._lock:
            wanted = [each for each in missing if each not in self._hopeless]
            if self._closed or not wanted:
                return
            if self._build is not None and self._build.is_alive():
                self.cache.generation += 1  # so that the next run notes them again
                return
            self._build = threading.Thread(
                target=self._make, args=(digest, wanted), name="compiling", daemon=True
            )
            self._build.start()

    def _make(self, digest: str, wanted: list[Missing]) -> None:
        def on_start(end: Callable[[], None]) -> None:
            with self._lock:
                self._end_build = end
                if self._closed:
                    end()

        try:
            outcomes = build_missing(
                self._place,
                self._store,
                digest,
                wanted,
                _log,
                on_start,
                timeout_seconds=BUILD_SECONDS_MAX,
                niceness=BUILD_NICENESS,
            )
        except Exception as error:  # also of what the process said, if that was no outcome
            if not self._closed:
                logger.warning("compiling for %s failed: %s", digest[:12], error)
                self._metrics.builds("failed")
            outcomes = []
        finally:
            with self._lock:
                self._end_build = None
        for outcome in outcomes:
            self._metrics.builds("failed" if outcome.problem else "made")
        with self._lock:
            failed = {(each.component, each.block) for each in outcomes if each.problem}
            for each in wanted:
                # A process that ended early says nothing of the rest: not again and again.
                hopeless = not outcomes or (each.component, each.block) in failed
                if hopeless and len(self._hopeless) < HOPELESS_MAX:
                    self._hopeless.add(each)
            self.cache.generation += 1

    def wait(self, seconds: float) -> bool:
        """Until no build runs; whether that came true."""
        build = self._build
        if build is not None:
            build.join(seconds)
        return build is None or not build.is_alive()

    def close(self) -> None:
        """Ends a build that runs."""
        with self._lock:
            self._closed = True
            if self._end_build is not None:
                self._end_build()
        self.wait(5.0)


def open_compiled(
    settings: WorkerSettings, device: torch.device, store: Path, metrics: WorkerMetrics | None
) -> CompiledRuns | None:
    """As the settings say. None where code is off or cannot be had: models run without it."""
    mode = CompiledMode(settings.compiled)
    if mode is CompiledMode.OFF:
        return None
    place = place_of(settings.compiled_cache, device)
    counts = CompiledMetrics()
    if metrics is not None:
        counts = CompiledMetrics(
            calls=lambda how, count: metrics.compiled_calls.labels(how).inc(count),
            refused=metrics.compiled_refused.inc,
            builds=lambda outcome: metrics.compiled_builds.labels(outcome).inc(),
        )
    try:
        return CompiledRuns(mode, place, device, store, counts)
    except (QuickthawError, OSError) as error:
        logger.warning("no compiled code is used: %s", error)
        return None


def place_of(cache: Path, device: torch.device) -> BuildPlace:
    """The key lies beside the folder, so that a copied folder brings none along."""
    key_file = cache.with_name(f"{cache.name}.key")
    return BuildPlace(cache, key_file, str(device), torch.get_num_threads())


def _log(outcome: BuildOutcome) -> None:
    if outcome.problem:
        logger.warning("not compiled: %s", outcome.problem)
    else:
        logger.info("compiled %s in %.1f s", outcome.block, outcome.seconds)
