"""Requests as callers ask about them: in memory while they live, in the store afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from quickthaw.scheduler.artifacts import not_found, request_id_of
from quickthaw.scheduler.catalog import Catalog
from quickthaw.scheduler.convert.requests import WatchPayload
from quickthaw.scheduler.core.events import CancelRequested
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Quote, RequestId
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.events_log import Entry
from quickthaw.scheduler.live import LiveRequest
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.scheduler.store.queries import request_page, request_view
from quickthaw.scheduler.store.store import Store
from quickthaw.scheduler.submissions import Accepted
from quickthaw.scheduler.views import RequestView
from quickthaw.wire import errors

ID_CHARS_MAX = 64
SEQUENCE_MAX = 1 << 62
"""Those of a request that a restart found begin at the milliseconds since 1970."""


class Requests:
    """A caller sees its own tenant's requests; those of others do not exist for it."""

    def __init__(
        self, dispatcher: Dispatcher, store: Store, catalog: Catalog, metrics: SchedulerMetrics
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._catalog = catalog
        self._metrics = metrics

    async def find(self, tenant: str | None, request_id: str) -> RequestView:
        """`tenant`: whose it must be; None for anyone's. Raises RequestNotFound."""
        live = self._dispatcher.live.get(request_id)
        if live is not None:
            view: RequestView | None = self._now(live)
        elif request_id and len(request_id) <= ID_CHARS_MAX and request_id.isprintable():
            view = await self._store.reader.run(lambda c: request_view(c, request_id))
        else:
            view = None
        if view is None or tenant not in (None, view.tenant):
            raise errors.RequestNotFound(
                f"there is no request {request_id[:ID_CHARS_MAX]!r}; Inference.List or "
                "`quickthaw requests` lists yours"
            )
        return view

    def _now(self, live: LiveRequest) -> RequestView:
        position = self._dispatcher.machine.queue_position(RequestId(live.view.request_id))
        if position is not None:
            live.view.queue_position = position
        return live.view

    async def page(
        self,
        tenant: str,
        *,
        before_id: str,
        states: Sequence[RequestState],
        model: str,
        size: int,
    ) -> tuple[list[RequestView], str]:
        """One page, newest first, and the token of the next. `model` may be an alias."""
        model_id = self._catalog.get(model, tenant).spec.id if model else ""
        views = await self._store.reader.run(
            lambda connection: request_page(
                connection, tenant, before_id=before_id, states=states, model_id=model_id, size=size
            )
        )
        token = views[-1].request_id if len(views) == size else ""
        # States of live requests are written behind, so memory knows better.
        current = [
            self._now(live) if (live := self._dispatcher.live.get(view.request_id)) else view
            for view in views
        ]
        return [view for view in current if not states or view.state in states], token

    async def watch(
        self, tenant: str, request_id: str, after_sequence: int
    ) -> AsyncIterator[Entry[WatchPayload]]:
        """Raises RequestNotFound. The last entry is the finished request, also where its events
        are no longer kept."""
        view = await self.find(tenant, request_id)
        log = self._dispatcher.log
        if not 0 <= after_sequence < SEQUENCE_MAX:
            raise errors.InvalidArgument(
                f"after_sequence is {after_sequence}: give that of an event you have seen, or 0"
            )
        last_sequence = after_sequence
        streams = self._metrics.streams.labels("watch")
        streams.inc()
        try:
            if log.knows(request_id):
                async with aclosing(log.watch(request_id, after_sequence)) as entries:
                    async for entry in entries:
                        last_sequence = entry.sequence
                        yield entry
                        if entry.final:
                            return
            # It ended before this process began, or so long ago that its events are gone.
            view = await self.find(tenant, request_id)
            if not view.state.terminal:
                raise errors.Internal(f"request {request_id} has no events and no end")
            yield Entry(last_sequence + 1, view.finished_ms, view, False, True, 0)
        finally:
            streams.dec()

    async def end_of(self, accepted: Accepted) -> RequestView:
        """Waits for the terminal request."""
        request = accepted.request
        if request is None or request.view.state.terminal:
            return accepted.view
        return await asyncio.shield(self._dispatcher.wait_for_end(request))

    async def make_durable(self, request: LiveRequest) -> None:
        """One that began before it was."""
        await self._dispatcher.make_durable(request)

    def kept_events(self, request_id: str) -> Sequence[Entry[WatchPayload]]:
        """Oldest first; none for a request that ended so long ago that they are gone."""
        return self._dispatcher.log.kept(request_id)

    def when_ended(
        self, request: LiveRequest, tell: Callable[[RequestView | errors.QuickthawError], None]
    ) -> None:
        """Calls back once, with the terminal request or with why that will not be known here."""
        request.waiters.append(tell)

    def cancel(self, view: RequestView, detail: str) -> None:
        if not view.state.terminal:
            self._dispatcher.feed(CancelRequested(RequestId(view.request_id), detail))

    async def cancel_durably(self, view: RequestView) -> None:
        """Returns when the wish to cancel survives a crash."""
        self.cancel(view, "cancelled by the caller")
        await self._dispatcher.durable()

    def quote(self, request: LiveRequest) -> Quote:
        """Raises what Submit would."""
        return self._dispatcher.machine.quote(request.job, self._dispatcher.clock.now_ms())

    async def find_by_artifact(self, tenant: str | None, uri: str) -> RequestView:
        """The request that made an artifact, as `find`. Raises ArtifactNotFound."""
        try:
            return await self.find(tenant, request_id_of(uri))
        except errors.RequestNotFound as error:
            raise not_found(uri) from error

    def seconds_left(self, view: RequestView, seconds: float) -> float:
        """Of so many after the request's end; 0 for one that has not ended."""
        since_end_ms = self._dispatcher.clock.now_ms() - view.finished_ms
        return max(0.0, seconds - since_end_ms / 1000) if view.finished_ms else 0.0
