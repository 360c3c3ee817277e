"""The port for bytes: whatever can fill memory with a component's data section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.tiers import Tier

PAGE_BYTES = 4096


class Source(Protocol):
    """One component's data section, opened for one load. Thread-safe.

    What it delivers is checked against the manifest by whoever reads (`transfer.py`), block by
    block, so a source need not trust where its bytes come from.
    """

    @property
    def name(self) -> str:
        """One word for the report and the receipt: `direct`, `page_cache`, `delta`, `peer`..."""
        ...

    @property
    def why(self) -> str:
        """Half a sentence for the report: what was true that made this the source."""
        ...

    @property
    def tier(self) -> Tier:
        """What a load from here counts as: disk or remote."""
        ...

    @property
    def span_bytes(self) -> int:
        """What to ask for at once: a multiple of 4 MiB, or a divisor of it.

        Less than 4 MiB makes sense where bytes come through the processor's caches: they are hashed
        while they are still in there.
        """
        ...

    @property
    def readers(self) -> int:
        """How many threads to read with."""
        ...

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        """Puts data bytes `start` to `start + nbytes` into `target`; returns how many it got.

        Fewer only where the source ends too early. `start` is a multiple of 4 MiB, or of
        `span_bytes` if that is less. `target` is
        page-aligned and as long as `nbytes` rounded up to 4096; the bytes after `nbytes` may be
        overwritten. Releases the GIL while it waits. May raise any `QuickthawError`.
        """
        ...

    def close(self) -> None:
        """Called once, when no thread reads any more, also after an error."""
        ...


@runtime_checkable
class Sparse(Protocol):
    """A source that reads less than it delivers."""

    @property
    def read_bytes(self) -> int:
        """Bytes that came from files or from afar so far, rather than from this host's memory."""
        ...


OpenComponent = Callable[[Component], Source]
"""Opens another component wherever it is fastest: in host memory, on disk, at an origin."""


class Origin(Protocol):
    """A way to components whose file is not on this machine: assembled here, or fetched.

    Both methods return None for what this origin has not got; the next one is asked then.
    """

    def header(self, component: Component) -> bytes | None:
        """The file's first `component.data_start` bytes; the caller checks their digest."""
        ...

    def open(self, component: Component, others: OpenComponent) -> Source | None:
        """`others` opens what this one is built upon, such as the base of a delta."""
        ...
