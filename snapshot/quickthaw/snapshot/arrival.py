"""The rest of an overlapped load: what still arrives after the model was handed out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from quickthaw.snapshot.gates import Gate
from quickthaw.snapshot.loading import GivenUp, Loading
from quickthaw.snapshot.report import ComponentReport, LoadReport


class Arrival:
    """Finishes `loading` in a thread of its own. Made when `until` is open: raises what kept it.

    `guards` are taken away when everything is there. After a failure they stay: whoever runs the
    model gets the error at its gate.
    """

    def __init__(
        self,
        loading: Loading,
        guards: Sequence[Callable[[], None]],
        report_of: Callable[[tuple[ComponentReport, ...]], LoadReport],
        *,
        until: Gate,
    ) -> None:
        self._loading = loading
        self._guards = guards
        self._report_of = report_of
        self._report: LoadReport | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._finish, name="snapshot-arrival")
        self._thread.start()
        until.wait()
        if until.failed:
            self.unguard()
            self.wait()

    def _finish(self) -> None:
        try:
            moved = self._loading.finish()
            self._report = self._report_of(moved)
        except BaseException as error:
            self._error = error
        else:
            self.unguard()

    def wait(self) -> LoadReport:
        """Returns when everything is there; raises what kept it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def unguard(self) -> None:
        for remove in self._guards:
            remove()

    def give_up(self) -> None:
        """Stops what still arrives and waits until nothing does."""
        self._loading.give_up(GivenUp("the model was released before it had arrived"))
        self._thread.join()
        self.unguard()
