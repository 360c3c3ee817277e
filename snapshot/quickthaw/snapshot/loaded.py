"""What `Loader.load` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any

from quickthaw.snapshot.adapters import Bound, Overlay
from quickthaw.snapshot.arrival import Arrival
from quickthaw.snapshot.gates import Gate
from quickthaw.snapshot.manifest import Kind
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.report import LoadReport


class LoadedModel:
    """A diffusers pipeline over resident weights; while it is held, they stay in VRAM.

    Modules, tokenizers and image processors are shared with other loaded models that have them in
    common, so at most one thread may run pipelines of one loader. The scheduler and the pipeline
    object are this model's own. A model with adapters runs inside `adapted()`. Leave dtype and
    device alone (`.to`), and never write into a weight: they are the snapshot's, and on a CPU the
    pinned tier's very memory.

    After `load(..., overlap=True)` weights may still be on their way: each module waits for its own
    when it is run, and raises what kept them from coming.
    """

    def __init__(
        self,
        pipeline: Any,
        snapshot: Snapshot,
        report: LoadReport | Arrival,
        release: Callable[[], None],
        overlay: Overlay | None = None,
        gates: Mapping[str, Gate] | None = None,
    ) -> None:
        """`gates`: of what had not arrived when its load began, by component name."""
        self._pipeline = pipeline
        self.digest = snapshot.digest
        self.manifest = snapshot.manifest
        self._report = report
        self._overlay = overlay
        self._gates = gates or {}
        self._release: Callable[[], None] | None = release

    @property
    def pipeline(self) -> Any:
        """The pipeline object, of the class that the manifest names; gone after `release`."""
        if self._pipeline is None:
            raise RuntimeError("the model was released")
        return self._pipeline

    def wait(self) -> LoadReport:
        """Returns when all weights are there; raises what kept them, as `Loader.load` would have.

        Release the model after an error: it will not become usable.
        """
        if isinstance(self._report, Arrival):
            self._report = self._report.wait()
        return self._report

    def wait_for(self, kind: Kind) -> None:
        """Returns when the weights of these components may be used by what this thread does next;
        raises what kept them."""
        for part in self.manifest.components:
            if part.kind is kind and part.name in self._gates:
                self._gates[part.name].pass_through()

    @property
    def report(self) -> LoadReport:
        """What the load did, complete: `wait`s if it is not over."""
        return self.wait()

    @contextmanager
    def adapted(self, strength: float = 1.0, more: Sequence[Bound] = ()) -> Iterator[None]:
        """Lays the model's adapters over its modules until the end of the block, and `more` after
        them, which are bound to these modules.

        `strength` multiplies the scales that the model's own were packed with.

        The modules are shared: outside, they are the base's, bit for bit. Does nothing for a model
        without adapters. Raises `RuntimeError` if another model's are on.
        """
        if self._pipeline is None:
            raise RuntimeError("the model was released")
        self.wait_for(Kind.ADAPTER)
        overlay = self._overlay
        if more:
            parts: dict[str, Any] = self._pipeline.components
            overlay = (overlay or Overlay()).with_more(more, parts)
        with nullcontext() if overlay is None else overlay.on(strength):
            yield

    def release(self) -> None:
        """Lets the components be evicted and drops the pipeline. A second call does nothing.

        What has not arrived by then is given up. Nothing may be running.
        """
        release, self._release = self._release, None
        self._pipeline = self._overlay = None
        if release is not None:
            if isinstance(self._report, Arrival):
                self._report.give_up()
            release()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
