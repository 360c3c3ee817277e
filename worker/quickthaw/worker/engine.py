"""The engine of families with models: one thread loads, others run, the event loop stays free."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from quickthaw.wire.errors import EngineFailed, QuickthawError
from quickthaw.worker.adapted import NAMES_LORAS, with_adapters
from quickthaw.worker.attempts import Assignment, LoadSummary, NoRoomYet, RunResult, Tier
from quickthaw.worker.batch_runs import batch_key_of, run_batch
from quickthaw.worker.families import adapter
from quickthaw.worker.faults import end_process, ending_at_faults
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.pictures import ReadBlob, refuse_blobs
from quickthaw.worker.ports import (
    BatchEnd,
    BatchMember,
    Clock,
    RunSink,
    RunStopped,
    StopSignal,
)
from quickthaw.worker.residency import Resident, TierSpeeds
from quickthaw.worker.video_files import VideoCodec

if TYPE_CHECKING:
    from quickthaw.worker.models import ModelHost
    from quickthaw.worker.prefetching import Prefetcher

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class DiffusionEngine:
    """Loads and runs on one device, with at most `concurrency` runs at once.

    `build` makes the host; it runs in the loader's thread, because it imports torch and touches the
    slab, and whatever is loaded waits for it. `on_residency` is called on the event loop with
    everything that is resident, after each change and before the load that made it returns.
    `on_fault` is called, in the thread where it shows, when the device is lost to this process; it
    need not return. `read_blob` reads pictures that requests begin with.
    """

    def __init__(
        self,
        build: Callable[[], ModelHost],
        concurrency: int,
        clock: Clock,
        speeds: TierSpeeds,
        on_residency: Callable[[list[Resident]], None],
        on_fault: Callable[[BaseException], None] = end_process,
        batch_max: int = 1,
        prefetcher: Prefetcher | None = None,
        read_blob: ReadBlob = refuse_blobs,
        video_codec: VideoCodec = VideoCodec.AUTO,
    ) -> None:
        self._build = build
        self._clock = clock
        self._speeds = speeds
        self._on_residency = on_residency
        self._on_fault = on_fault
        self._batch_max = batch_max
        self._read_blob = read_blob
        self._video_codec = video_codec
        self._host: ModelHost | None = None
        self._prefetcher = prefetcher
        self._loads = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._runs = ThreadPoolExecutor(concurrency, thread_name_prefix="runner")

    async def start(self, prepare: tuple[str, ...]) -> None:
        """Builds the host and prepares these snapshots. Raises what building raises."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            host = self._build()
            for digest in prepare:
                try:
                    host.prepare(digest)
                except Exception as error:
                    # A request for it will be told the same; the others need not suffer.
                    logger.warning("cannot prepare %s: %s", digest[:12], error)
            self._host = host
            host.on_news = lambda: self._tell(loop, host)
            if self._prefetcher is not None:
                self._prefetcher.begin(host.promoting, host.on_news)
            self._tell(loop, host)

        await self._in_loader(begin)

    def load_at_once(self, assignment: Assignment) -> LoadSummary | None:
        """Of a model that is up, unless the loader is at something, or the input has to be read:
        runs may be batched, or it names LoRAs."""
        if self._host is None or self._batch_max > 1 or NAMES_LORAS in assignment.input_json:
            return None
        if not self._host.promoting.idle:
            return None  # it has to give way first
        summary = self._host.take_up(assignment)
        if summary is not None:
            self._speeds.observe(summary)
        return summary

    def take_up(self, assignment: Assignment) -> LoadSummary | None:
        """It runs alone where others might be batched with it: they would have to be up, too."""
        if self._host is None or NAMES_LORAS in assignment.input_json:
            return None
        return self._host.take_up(assignment)

    def run_at_once(self, assignment: Assignment) -> tuple[RunResult, float] | None:
        return None

    async def load(self, assignment: Assignment, stop: StopSignal) -> LoadSummary | NoRoomYet:
        loop = asyncio.get_running_loop()

        def bring_up() -> LoadSummary | NoRoomYet:
            host = self._require()
            try:
                summary = host.load(assignment, stop)
                if isinstance(summary, NoRoomYet):
                    return summary
                if self._batch_max > 1:
                    summary = replace(summary, batch_key=batch_key_of(host, assignment))
                if NAMES_LORAS in assignment.input_json:
                    summary = with_adapters(host, assignment, summary)
                return summary
            finally:
                self._tell(loop, host)

        result = await self._in_loader(bring_up)
        if isinstance(result, LoadSummary):
            self._speeds.observe(result)
        return result

    async def run(
        self, assignment: Assignment, sink: RunSink, stop: StopSignal
    ) -> tuple[RunResult, float]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._runs, self._run, loop, assignment, sink, stop)

    async def run_batch(self, members: Sequence[BatchMember]) -> tuple[list[BatchEnd], float]:
        """As `run`, for attempts with one snapshot and one `batch_key`: the end of each."""

        loop = asyncio.get_running_loop()

        def run() -> tuple[list[BatchEnd], float]:
            host = self._require()
            ends = run_batch(host, members, self._on_fault)
            ended = self._clock()
            self._tell(loop, host)  # what was idle may have made room
            return ends, ended

        return await loop.run_in_executor(self._runs, run)

    def release(self, attempt_id: str) -> None:
        if self._host is not None:
            self._host.release(attempt_id)

    async def unload(self, digests: tuple[str, ...], tier: Tier) -> None:
        loop = asyncio.get_running_loop()

        def free() -> None:
            host = self._require()
            host.unload(digests, tier)
            self._tell(loop, host)

        await self._in_loader(free)

    async def close(self) -> None:
        """Nothing may be running or loading."""
        if self._prefetcher is not None:
            await self._prefetcher.close()

        def end() -> None:
            if self._host is not None:
                self._host.close()

        await self._in_loader(end)
        self._loads.shutdown()
        self._runs.shutdown()

    async def _in_loader(self, work: Callable[[], _T]) -> _T:
        def watched() -> _T:
            with ending_at_faults(self._on_fault):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._loads, watched)

    def _require(self) -> ModelHost:
        if self._host is None:
            raise EngineFailed("the worker could not prepare its device; its log says why")
        return self._host

    def _tell(self, loop: asyncio.AbstractEventLoop, host: ModelHost) -> None:
        if (lines := host.news()) is not None:
            loop.call_soon_threadsafe(self._on_residency, lines)

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        assignment: Assignment,
        sink: RunSink,
        stop: StopSignal,
    ) -> tuple[RunResult, float]:
        # Imported here because the event loop's thread must not wait for torch.
        import torch

        from quickthaw.worker.bringing import out_of_memory
        from quickthaw.worker.making import Listener, brought, make

        host = self._require()
        try:
            loaded, reader = host.model_of(assignment)
            request = reader.read(assignment.input_json)
            family = adapter(loaded.manifest.family)
            made = partial(
                make,
                loaded.pipeline,
                family,
                request,
                loaded.manifest.preview,
                Listener(sink, stop),
                host.answers_of(assignment.attempt_id),
                brought(family, request, self._read_blob),
                self._video_codec,
            )
            lora_scale = request.lora_scale if isinstance(request, ImageInput) else 1.0
            with (
                host.running(loaded.manifest),
                ending_at_faults(self._on_fault),
                host.compiled(loaded) as usage,
                loaded.adapted(lora_scale, host.adapters.take(assignment.attempt_id)),
            ):
                result = None
                try:
                    result = made()
                except torch.OutOfMemoryError:
                    logger.warning("no memory left to run %s; making room", assignment.model)
                if result is None:
                    # Only here are the failed run's tensors gone, which its traceback held.
                    host.free_idle()
                    self._tell(loop, host)
                    result = made()
                ended = self._clock()
            return replace(result, compiled=str(usage)), ended
        except (QuickthawError, RunStopped):
            raise
        except torch.OutOfMemoryError as error:
            raise out_of_memory(f"running {assignment.model}") from error
        except Exception as error:
            logger.exception("attempt %s failed", assignment.attempt_id)
            raise EngineFailed(
                f"{assignment.model} failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            host.release(assignment.attempt_id)
