"""What a person sees while a request is under way. All of it goes to stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from quickthaw.client import Event, Finished, Logged, Previewed, Progressed, StateChanged
from quickthaw.client.requests import RequestState

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text


class View(Protocol):
    """Follows the events of one request."""

    def take(self, event: Event) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def describe(event: StateChanged) -> str:
    """One phrase: `queued, 3 ahead`, `loading on worker-0`."""
    text = str(event.state)
    if event.state is RequestState.QUEUED and event.queue_position:
        text += f", {event.queue_position} ahead"
    if event.worker_id:
        text += f" on {event.worker_id}"
    if event.attempt > 1:
        text += f", attempt {event.attempt}"
    detail = event.detail.removeprefix(f"{event.worker_id}: ")
    return f"{text} ({detail})" if detail else text


class SilentView:
    def take(self, event: Event) -> None:
        """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class LineView(SilentView):
    """One line for each change of state and each log line: for a pipe or a log file."""

    def take(self, event: Event) -> None:
        match event:
            case StateChanged():
                print(describe(event), file=sys.stderr, flush=True)
            case Logged():
                print(f"{event.level}: {event.text}", file=sys.stderr, flush=True)
            case _:
                pass


class LiveView:
    """A progress bar and the newest preview, redrawn in place; gone when the request has ended."""

    def __init__(self) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from quickthaw.cli.output import stderr

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task("submitting", total=None, count="")
        self._preview: Text | str = ""
        self._live = Live(self._picture(), console=stderr(), transient=True, refresh_per_second=10)

    def take(self, event: Event) -> None:
        match event:
            case StateChanged():
                self._progress.update(self._task, description=describe(event))
            case Progressed():
                self._progress.update(
                    self._task,
                    completed=event.step,
                    total=event.steps,
                    count=f"{event.step}/{event.steps}",
                )
            case Previewed():
                self._show(event.data)
            case Logged():
                self._live.console.print(f"{event.level}: {event.text}", markup=False)
            case Finished():
                self._progress.update(self._task, description=str(event.request.state))
            case _:
                pass

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def _show(self, data: bytes) -> None:
        from quickthaw.cli.preview import half_blocks

        self._preview = half_blocks(data) or self._preview
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        from rich.console import Group

        return Group(self._progress, self._preview)


def choose_view(quiet: bool) -> View:
    """What suits stderr: drawn on a terminal, lines elsewhere."""
    if quiet:
        return SilentView()
    return LiveView() if sys.stderr.isatty() else LineView()
