"""From a caller's submission to a journalled request: everything that can refuse it comes first."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from quickthaw.scheduler.catalog import Catalog, CatalogModel
from quickthaw.scheduler.convert.requests import Submission, refused_columns
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Job, RequestId, TenantId
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.ids import RequestIds
from quickthaw.scheduler.inputs import canonical, parse_input
from quickthaw.scheduler.key_gate import KeyGate
from quickthaw.scheduler.live import LiveRequest
from quickthaw.scheduler.loras import LoraPlaces, check_loras
from quickthaw.scheduler.store.queries import idempotent_request, request_view
from quickthaw.scheduler.store.rows import refused_rows, request_rows
from quickthaw.scheduler.store.store import Store
from quickthaw.scheduler.store.webhooks import webhook_row
from quickthaw.scheduler.unbroken import unbroken
from quickthaw.scheduler.views import RequestView
from quickthaw.scheduler.webhooks import Webhooks
from quickthaw.scheduler.work_units import batch_key, output_units, work_units
from quickthaw.wire import errors


@dataclass(frozen=True, slots=True)
class Accepted:
    """`request` is None if an idempotency key led to one that has ended already."""

    view: RequestView
    request: LiveRequest | None
    deduplicated: bool = False


@dataclass(slots=True)
class _KeyInUse:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0


Told = Callable[[LiveRequest, errors.QuickthawError | None], None]
"""Is told that a request is durable (None), or why it was never accepted."""


class Submissions:
    """Belongs to the event loop."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        dispatcher: Dispatcher,
        store: Store,
        idempotency_retention_ms: int,
        webhooks: Webhooks,
        gate: KeyGate,
        loras: LoraPlaces,
    ) -> None:
        self._loras = loras
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._store = store
        self._retention_ms = idempotency_retention_ms
        self._webhooks = webhooks
        self._gate = gate
        self._ids = RequestIds()
        # One lock for each key in use just now: two calls with one key must not both be new.
        self._keys_in_use: dict[tuple[str, str], _KeyInUse] = {}

    def prepare(self, tenant: str, submission: Submission) -> tuple[LiveRequest, CatalogModel]:
        """Checks everything that needs no waiting. Raises what `Inference.Submit` documents."""
        now_ms = self._dispatcher.clock.now_ms()
        model = self._catalog.get(submission.model, tenant)
        limits = self._gate.check_model(submission.key_id, model.spec.id)
        completed = self._catalog.schema(model).complete(submission.input_json)
        check_loras(
            completed,
            self._catalog,
            tenant,
            lambda model_id: self._gate.check_model(submission.key_id, model_id),
        )
        if submission.deadline_ms and submission.deadline_ms <= now_ms:
            raise errors.DeadlineExpired(
                f"the deadline passed {now_ms - submission.deadline_ms} ms ago; name one that lies "
                "in the future"
            )
        if submission.start_deadline_ms and submission.start_deadline_ms <= now_ms:
            raise errors.StartTimeout("the time in which a worker had to begin has passed already")
        input_json = canonical(completed)
        job = Job(
            request_id=RequestId(self._ids.new(now_ms)),
            tenant=TenantId(tenant),
            model=model.spec,
            submitted_ms=now_ms,
            priority=submission.priority,
            work_units=work_units(completed),
            deadline_ms=submission.deadline_ms,
            worker_hint=submission.worker_hint or self._loras.hint(completed),
            second_worth_nanodollars=submission.second_worth_nanodollars,
            price_cap_nanodollars=_lower_cap(
                submission.price_cap_nanodollars, limits.request_price_nanodollars
            ),
            start_deadline_ms=submission.start_deadline_ms,
            attempts_max=submission.attempts_max,
            key_id=submission.key_id,
            batch_key=batch_key(completed),
            outputs=output_units(completed),
            ahead=submission.ahead,
        )
        view = RequestView(
            request_id=job.request_id,
            tenant=tenant,
            model=model.spec.id,
            snapshot_digest=model.spec.snapshot_digest,
            priority=submission.priority,
            input_json=input_json,
            submitted_ms=now_ms,
            deadline_ms=submission.deadline_ms,
        )
        wanted_bytes = submission.contents_bytes_max
        return LiveRequest(job, view, contents_bytes_max=wanted_bytes), model

    async def submit(self, tenant: str, submission: Submission) -> Accepted:
        """Durable when this returns. A caller that goes away meanwhile changes nothing."""
        if not submission.idempotency_key:
            return await self._submit_new(tenant, submission, None)
        key = (tenant, submission.idempotency_key)
        in_use = self._keys_in_use.setdefault(key, _KeyInUse())
        in_use.calls += 1
        try:
            async with in_use.lock:
                return await self._submit_once(tenant, submission)
        finally:
            in_use.calls -= 1
            if not in_use.calls:
                del self._keys_in_use[key]

    async def submit_while_wanted(
        self, tenant: str, submission: Submission, unwanted: Callable[[RequestView], None]
    ) -> Accepted:
        """As `submit`, but for work that nobody wants without its caller: `unwanted` is told what
        became durable after the caller had gone."""
        if not submission.idempotency_key:
            if (begun := self.begin_ahead(tenant, submission)) is not None:
                return Accepted(begun.view, begun)
            return await self._submit_new(tenant, submission, None, unwanted)
        submitting = asyncio.create_task(self.submit(tenant, submission))

        def tell(done: asyncio.Task[Accepted]) -> None:
            if not done.cancelled() and done.exception() is None:
                unwanted(done.result().view)

        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(tell)
            raise

    async def _submit_once(self, tenant: str, submission: Submission) -> Accepted:
        fingerprint = _fingerprint(submission)
        since_ms = self._dispatcher.clock.now_ms() - self._retention_ms
        known = await self._store.reader.run(
            lambda connection: idempotent_request(
                connection, tenant, submission.idempotency_key, since_ms
            )
        )
        if known is None:
            return await self._submit_new(tenant, submission, fingerprint)
        request_id, first_fingerprint = known
        if first_fingerprint != fingerprint:
            raise errors.AlreadyExists(
                f"the idempotency key {submission.idempotency_key!r} was used for a different "
                f"request, {request_id}; use a new key for new work"
            )
        request = self._dispatcher.live.get(request_id)
        if request is not None:
            return Accepted(request.view, request, deduplicated=True)
        view = await self._store.reader.run(lambda connection: request_view(connection, request_id))
        if view is None:
            raise errors.Internal(f"request {request_id} has a key but no row")
        return Accepted(view, None, deduplicated=True)

    def begin(
        self, tenant: str, submission: Submission, told: Told, fingerprint: str | None = None
    ) -> LiveRequest:
        """Sends a new request on its way into the journal: `submit` without the waiting. An
        idempotency key is looked up there and needs its `fingerprint` here."""
        request, model = self.prepare(tenant, submission)
        self._dispatcher.check_admission(request)
        self._check_model_queue(request.job.model.id, submission.model_queue_max)
        self._gate.check_room(submission.key_id)
        idempotency = (submission.idempotency_key, fingerprint) if fingerprint else None
        rows = request_rows(
            request.job,
            model_version=model.version,
            input_json=request.view.input_json,
            idempotency=idempotency,
            io_kept_ms=submission.io_kept_ms,
            files_kept_ms=submission.files_kept_ms,
        )
        if submission.webhook is not None:
            view = request.view
            rows.append(webhook_row(view.request_id, tenant, submission.webhook, view.submitted_ms))
            self._webhooks.expect(request)
        self._dispatcher.journal_request(request, rows, partial(self._arrived, told, request))
        self._gate.set_out(submission.key_id)
        self._gate.took(submission.key_id)
        return request

    def _arrived(
        self, told: Told, request: LiveRequest, error: errors.QuickthawError | None
    ) -> None:
        self._gate.arrived(request.job.key_id)
        told(request, error)

    def _check_model_queue(self, model_id: str, queue_max: int) -> None:
        """Raises QueueFull. Few callers set such a limit, so nothing is counted for the others."""
        if not queue_max:
            return
        waiting = sum(
            each.view.model == model_id and each.view.state is RequestState.QUEUED
            for each in self._dispatcher.live
        )
        if waiting > queue_max:
            raise errors.QueueFull(
                f"{waiting} requests of {model_id} wait, and the call allows {queue_max}; try "
                "again later",
                retry_delay_seconds=2.0,
            )

    async def _submit_refused(
        self,
        tenant: str,
        submission: Submission,
        fingerprint: str | None,
        error: errors.InvalidInput,
    ) -> Accepted:
        """Journals a request that has failed already, for callers that want to be told later."""
        model = self._catalog.get(submission.model, tenant)
        self._gate.check_room(submission.key_id)
        self._gate.took(submission.key_id)
        try:
            input_json = canonical(parse_input(submission.input_json))
        except errors.InvalidInput:
            input_json = "{}"
        now_ms = self._dispatcher.clock.now_ms()
        job = Job(RequestId(self._ids.new(now_ms)), TenantId(tenant), model.spec, now_ms)
        view = RequestView(
            request_id=job.request_id,
            tenant=tenant,
            model=model.spec.id,
            snapshot_digest=model.spec.snapshot_digest,
            priority=job.priority,
            input_json=input_json,
            submitted_ms=now_ms,
            state=RequestState.FAILED,
            finished_ms=now_ms,
        )
        columns = refused_columns(view, error)
        view.end_proto = columns.end_proto
        rows = [
            *request_rows(
                job,
                model_version=model.version,
                input_json=input_json,
                idempotency=(submission.idempotency_key, fingerprint) if fingerprint else None,
                io_kept_ms=submission.io_kept_ms,
            ),
            *refused_rows(view, columns),
        ]
        if submission.webhook is not None:
            rows.append(webhook_row(view.request_id, tenant, submission.webhook, now_ms))
        await self._store.journal.offer(rows)
        if submission.webhook is not None:
            self._webhooks.make_due(view.request_id)
        return Accepted(view, None)

    async def _submit_new(
        self,
        tenant: str,
        submission: Submission,
        fingerprint: str | None,
        unwanted: Callable[[RequestView], None] | None = None,
    ) -> Accepted:
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(request: LiveRequest, error: errors.QuickthawError | None) -> None:
            if error is None and unwanted is not None and durable.cancelled():
                unwanted(request.view)
            elif durable.done():
                return
            elif error is not None:
                durable.set_exception(error)
            else:
                durable.set_result(None)

        try:
            if submission.found_wrong:
                raise _wrong_already(submission)
            request = self.begin(tenant, submission, told, fingerprint)
        except errors.InvalidInput as error:
            if not submission.accept_invalid_input:
                raise
            refused = unbroken(self._submit_refused)
            return await refused(tenant, submission, fingerprint, error)
        try:
            await (asyncio.shield(durable) if fingerprint else durable)
        except asyncio.CancelledError:
            if fingerprint:
                # Whoever says the key again must find what this has begun.
                await asyncio.wait((durable,))
            # It may have become durable just before.
            if unwanted is not None and not durable.cancelled() and durable.exception() is None:
                unwanted(request.view)
            raise
        return Accepted(request.view, request)

    def begin_ahead(self, tenant: str, submission: Submission) -> LiveRequest | None:
        """A request that runs before it is durable: see `Dispatcher.accept_ahead`.

        None where that refuses, and for what must survive this process: an idempotency key, a
        webhook, or that the input was refused. `submit` is for those.
        """
        survives = submission.idempotency_key or submission.webhook
        if survives or submission.accept_invalid_input:
            return None
        request, model = self.prepare(tenant, submission)
        self._dispatcher.check_admission(request)
        self._check_model_queue(request.job.model.id, submission.model_queue_max)
        self._gate.check_room(submission.key_id)
        rows = request_rows(
            request.job,
            model_version=model.version,
            input_json=request.view.input_json,
            idempotency=None,
            io_kept_ms=submission.io_kept_ms,
            files_kept_ms=submission.files_kept_ms,
        )
        if not self._dispatcher.accept_ahead(request, rows):
            return None
        self._gate.took(submission.key_id)
        return request


def _wrong_already(submission: Submission) -> errors.InvalidInput:
    """The refusal that the caller has found out by itself."""
    first = submission.found_wrong[0]
    return errors.InvalidInput(
        f"{first.field}: {first.description}", violations=submission.found_wrong
    )


def _lower_cap(one: int, other: int) -> int:
    """Of two caps, where 0 is none."""
    return min(one, other) if one and other else one or other


def _fingerprint(submission: Submission) -> str:
    """What makes two submissions the same request. A retry may well name a later deadline."""
    parts = (submission.model, submission.input_json, str(int(submission.priority)))
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
