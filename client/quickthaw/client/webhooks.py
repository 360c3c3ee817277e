"""Webhooks: whom the platform tells of a request's end, and how that went."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from dataclasses import dataclass
from enum import StrEnum

from quickthaw.client import methods
from quickthaw.client.async_driver import AsyncDriver
from quickthaw.client.inference import PAGE_SIZE
from quickthaw.client.retry import Context, call_with_retry
from quickthaw.client.steps import Item, Iteration, Operation
from quickthaw.client.sync_driver import SyncDriver
from quickthaw.v1 import webhooks_pb2


class WebhookState(StrEnum):
    """Where a webhook stands."""

    UNKNOWN = "unknown"
    WAITING = "waiting"
    DUE = "due"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """One try to deliver."""

    unix_ms: int
    status: int
    """The receiver's HTTP status; 0 if there was no answer."""
    error: str
    """Why it failed; empty if it did not."""
    spent_ms: int


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whom to tell of one request's end, and what became of it."""

    request_id: str
    tenant: str
    url: str
    dialect: str
    """`fal` or `replicate`."""
    state: WebhookState
    attempts: int
    """Since it became due, or was made due again."""
    due_unix_ms: int
    """When the next attempt may begin; 0 while it waits."""
    created_unix_ms: int
    history: tuple[WebhookAttempt, ...]
    """Oldest first; the newest 20."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that fal-style webhooks are signed with; its private half stays with the platform."""

    kid: str
    created_unix_ms: int


def webhook_from_wire(message: webhooks_pb2.Webhook) -> Webhook:
    names = webhooks_pb2.WebhookDialect.Name
    return Webhook(
        request_id=message.request_id,
        tenant=message.tenant,
        url=message.target.url,
        dialect=names(message.target.dialect).removeprefix("WEBHOOK_DIALECT_").lower(),
        state=_state(message.state),
        attempts=message.attempts,
        due_unix_ms=message.due_unix_ms,
        created_unix_ms=message.created_unix_ms,
        history=tuple(
            WebhookAttempt(each.unix_ms, each.status, each.error, each.spent_ms)
            for each in message.history
        ),
    )


def _state(number: webhooks_pb2.WebhookState.ValueType) -> WebhookState:
    try:
        return WebhookState(
            webhooks_pb2.WebhookState.Name(number).removeprefix("WEBHOOK_STATE_").lower()
        )
    except ValueError:
        return WebhookState.UNKNOWN  # From a newer platform.


def get_webhook(context: Context, request_id: str) -> Operation[Webhook]:
    message = webhooks_pb2.GetWebhookRequest(request_id=request_id)
    return webhook_from_wire((yield from call_with_retry(context, methods.GET_WEBHOOK, message)))


def redeliver(context: Context, request_id: str) -> Operation[Webhook]:
    message = webhooks_pb2.RedeliverWebhookRequest(request_id=request_id)
    return webhook_from_wire((yield from call_with_retry(context, methods.REDELIVER, message)))


def rotate_key(context: Context) -> Operation[SigningKey]:
    message = webhooks_pb2.RotateSigningKeyRequest()
    made = yield from call_with_retry(context, methods.ROTATE_SIGNING_KEY, message)
    return SigningKey(made.kid, made.created_unix_ms)


def list_webhooks(
    context: Context, states: Iterable[WebhookState], limit: int | None
) -> Iteration[Webhook, None]:
    message = webhooks_pb2.ListWebhooksRequest(
        states=[webhooks_pb2.WebhookState.Value(f"WEBHOOK_STATE_{each.name}") for each in states]
    )
    message.page.size = PAGE_SIZE if limit is None else max(1, min(PAGE_SIZE, limit))
    count = 0
    while True:
        answer = yield from call_with_retry(context, methods.LIST_WEBHOOKS, message)
        for each in answer.webhooks:
            if limit is not None and count >= limit:
                return
            count += 1
            yield Item(webhook_from_wire(each))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token


class Webhooks:
    """The tenant's webhooks, as `Client.webhooks`."""

    def __init__(self, context: Context, driver: SyncDriver) -> None:
        self._context = context
        self._driver = driver

    def list(
        self, *, states: Iterable[WebhookState] = (), limit: int | None = None
    ) -> Generator[Webhook, None, None]:
        """Newest request first, fetched page by page. No states means all."""
        return self._driver.iterate(list_webhooks(self._context, states, limit))

    def get(self, request_id: str) -> Webhook:
        """The webhook of one request. Raises WebhookNotFound."""
        return self._driver.drive(get_webhook(self._context, request_id))

    def redeliver(self, request_id: str) -> Webhook:
        """Makes it due again, with all its tries. Raises WebhookNotFound, and FailedPrecondition
        while its request runs or it is being delivered."""
        return self._driver.drive(redeliver(self._context, request_id))

    def rotate_key(self) -> SigningKey:
        """Signs with a new key from now on; the old one is published for another day. Needs the
        scope `admin`."""
        return self._driver.drive(rotate_key(self._context))


class AsyncWebhooks:
    """The tenant's webhooks, as `Client.webhooks`."""

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver

    def list(
        self, *, states: Iterable[WebhookState] = (), limit: int | None = None
    ) -> AsyncGenerator[Webhook, None]:
        """As `Client.webhooks.list`, with its errors."""
        return self._driver.iterate(list_webhooks(self._context, states, limit))

    async def get(self, request_id: str) -> Webhook:
        """As `Client.webhooks.get`, with its errors."""
        return await self._driver.drive(get_webhook(self._context, request_id))

    async def redeliver(self, request_id: str) -> Webhook:
        """As `Client.webhooks.redeliver`, with its errors."""
        return await self._driver.drive(redeliver(self._context, request_id))

    async def rotate_key(self) -> SigningKey:
        """As `Client.webhooks.rotate_key`, with its errors."""
        return await self._driver.drive(rotate_key(self._context))
