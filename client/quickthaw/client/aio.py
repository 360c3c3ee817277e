"""The client for asyncio: the calls of `client.py`, awaited. One logic serves both."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from quickthaw.client import artifacts, inference, operators, traffic, versions
from quickthaw.client.accounts import AsyncAccounts
from quickthaw.client.async_driver import AsyncDriver
from quickthaw.client.billing import (
    LedgerLine,
    PriceTable,
    Usage,
    UsageDimension,
)
from quickthaw.client.catalog import (
    Model,
    ModelEndpoint,
    ModelVersion,
    Registered,
    UnusedSnapshot,
)
from quickthaw.client.deployments import AsyncDeployments
from quickthaw.client.events import Event
from quickthaw.client.fleet import Explanation, FleetStatus, Worker
from quickthaw.client.inference import SubmitOptions
from quickthaw.client.keys import AsyncKeys
from quickthaw.client.operators import Period
from quickthaw.client.realtime import RealtimeSession
from quickthaw.client.requests import (
    Artifact,
    JsonObject,
    Quote,
    Request,
    RequestState,
    Submitted,
)
from quickthaw.client.retry import Context
from quickthaw.client.run_many import RunMany
from quickthaw.client.settings import Endpoint, find_endpoint
from quickthaw.client.traffic import TrafficEntry
from quickthaw.client.webhooks import AsyncWebhooks
from quickthaw.wire.tls_settings import TlsFiles


class AsyncClient:
    """`Client` for asyncio; belongs to one event loop.

        async with AsyncClient() as client:
            request = await client.run("quickthaw/shapes", {"prompt": "a red circle"})

    Cancelling the task that awaits `run` cancels the request. An iterator that is left early keeps
    its stream until it is closed: wrap it in `contextlib.aclosing`.
    """

    def __init__(
        self,
        grpc: str | None = None,
        key: str | None = None,
        *,
        data_dir: Path | None = None,
        context: Context | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        """Connects at the first call. Raises as `find_endpoint`, and SettingsInvalid for files of
        `tls` that cannot be used."""
        self.endpoint: Endpoint = find_endpoint(grpc, key, data_dir, tls=tls)
        self._context = context or Context()
        self._driver = AsyncDriver(self.endpoint)
        self.models = AsyncModels(self._context, self._driver)
        self.endpoints = AsyncEndpoints(self._context, self._driver)
        self.accounts = AsyncAccounts(self._context, self._driver)
        self.workers = AsyncWorkers(self._context, self._driver)
        self.keys = AsyncKeys(self._context, self._driver)
        self.deployments = AsyncDeployments(self._context, self._driver)
        self.webhooks = AsyncWebhooks(self._context, self._driver)

    async def close(self) -> None:
        """Ends what is under way. Later calls raise FailedPrecondition."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def submit(
        self, model: str, input: JsonObject | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        """As `Client.submit`, with its errors."""
        return await self._driver.drive(
            inference.submit(self._context, model, input or {}, options)
        )

    async def run(
        self,
        model: str,
        input: JsonObject | None = None,
        *,
        on_event: Callable[[Event], object] | None = None,
        timeout_seconds: float | None = None,
        raise_for_failure: bool = True,
        **options: Unpack[SubmitOptions],
    ) -> Request:
        """As `Client.run`, with its errors. An awaitable answer of `on_event` is awaited."""
        operation = inference.run(self._context, model, input or {}, options, timeout_seconds)
        request = await self._driver.drive(operation, on_event)
        return request.raise_for_failure() if raise_for_failure else request

    async def get(self, request_id: str) -> Request:
        """As `Client.get`, with its errors."""
        return await self._driver.drive(inference.get(self._context, request_id))

    def list(
        self,
        *,
        states: Iterable[RequestState] = (),
        model: str = "",
        limit: int | None = None,
    ) -> AsyncGenerator[Request, None]:
        """As `Client.list`, with its errors."""
        return self._driver.iterate(inference.list_requests(self._context, states, model, limit))

    def watch(
        self, request_id: str, *, after_sequence: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """As `Client.watch`, with its errors."""
        return self._driver.iterate(
            inference.watch(self._context, request_id, after_sequence, timeout_seconds)
        )

    async def cancel(self, request_id: str) -> RequestState:
        """As `Client.cancel`, with its errors."""
        return await self._driver.drive(inference.cancel(self._context, request_id))

    async def quote(
        self, model: str, input: JsonObject | None = None, **options: Unpack[SubmitOptions]
    ) -> Quote:
        """As `Client.quote`, with its errors."""
        return await self._driver.drive(inference.quote(self._context, model, input or {}, options))

    def realtime(self) -> RealtimeSession:
        """A session for many small requests; use it with `async with`."""
        return RealtimeSession(self._context, self._driver)

    def run_many(self) -> RunMany:
        """For much work at once: many runs that share one stream; use it with `async with`."""
        return RunMany(self._context, self._driver)

    async def read_artifact(self, artifact: Artifact | str) -> bytes:
        """As `Client.read_artifact`, with its errors."""
        return await self._driver.drive(artifacts.read_artifact(self._context, artifact))

    async def save_artifact(self, artifact: Artifact | str, path: Path | str) -> Path:
        """As `Client.save_artifact`, with its errors."""
        return await self._driver.drive(
            artifacts.save_artifact(self._context, artifact, Path(path))
        )

    async def explain(self, request_id: str) -> Explanation:
        """As `Client.explain`, with its errors."""
        return await self._driver.drive(operators.explain(self._context, request_id))

    async def usage(
        self, period: Period | None = None, *, by: Sequence[UsageDimension] = ()
    ) -> Usage:
        """As `Client.usage`, with its errors."""
        return await self._driver.drive(operators.usage(self._context, period or Period(), by))

    def ledger(
        self, period: Period | None = None, *, request_id: str = ""
    ) -> AsyncGenerator[LedgerLine, None]:
        """As `Client.ledger`, with its errors."""
        return self._driver.iterate(operators.ledger(self._context, period or Period(), request_id))

    def traffic(
        self, *, from_unix_ms: int = 0, until_unix_ms: int = 0
    ) -> AsyncGenerator[TrafficEntry, None]:
        """As `Client.traffic`, with its errors."""
        return self._driver.iterate(
            traffic.list_traffic(self._context, from_unix_ms, until_unix_ms)
        )

    async def prices(self) -> PriceTable:
        """As `Client.prices`, with its errors."""
        return await self._driver.drive(operators.prices(self._context))


class AsyncModels:
    """The catalog, as `Client.models`."""

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver

    def list(self) -> AsyncGenerator[Model, None]:
        """As `Client.models.list`, with its errors."""
        return self._driver.iterate(operators.list_models(self._context))

    async def get(self, model: str) -> Model:
        """As `Client.models.get`, with its errors."""
        return await self._driver.drive(operators.get_model(self._context, model))

    async def register(self, model: Model, endpoint: ModelEndpoint | None = None) -> Registered:
        """As `Client.models.register`, with its errors."""
        return await self._driver.drive(operators.register_model(self._context, model, endpoint))

    def versions(self, model: str) -> AsyncGenerator[ModelVersion, None]:
        """As `Client.models.versions`, with its errors."""
        return self._driver.iterate(versions.list_versions(self._context, model))

    async def rollback(self, model: str, number: int) -> Registered:
        """As `Client.models.rollback`, with its errors."""
        return await self._driver.drive(versions.rollback(self._context, model, number))

    async def unused_snapshots(self) -> tuple[UnusedSnapshot, ...]:
        """As `Client.models.unused_snapshots`, with its errors."""
        return await self._driver.drive(versions.unused_snapshots(self._context))

    async def remove(self, model: str) -> None:
        """As `Client.models.remove`, with its errors."""
        await self._driver.drive(operators.remove_model(self._context, model))


class AsyncEndpoints:
    """How models are served, as `Client.endpoints`."""

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver

    def list(self) -> AsyncGenerator[ModelEndpoint, None]:
        """As `Client.endpoints.list`, with its errors."""
        return self._driver.iterate(operators.list_endpoints(self._context))

    async def get(self, model: str) -> ModelEndpoint:
        """As `Client.endpoints.get`, with its errors."""
        return await self._driver.drive(operators.get_endpoint(self._context, model))

    async def set(
        self, model: str, endpoint: ModelEndpoint, names: Sequence[str] = ()
    ) -> ModelEndpoint:
        """As `Client.endpoints.set`, with its errors."""
        return await self._driver.drive(
            operators.set_endpoint(self._context, model, endpoint, names)
        )

    async def release(self, model: str) -> ModelEndpoint:
        """As `Client.endpoints.release`, with its errors."""
        return await self._driver.drive(operators.release_quarantine(self._context, model))


class AsyncWorkers:
    """The fleet, as `Client.workers`. Needs the scope `admin`."""

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver

    async def list(self) -> tuple[Worker, ...]:
        """As `Client.workers.list`, with its errors."""
        return await self._driver.drive(operators.list_workers(self._context))

    async def status(self) -> FleetStatus:
        """As `Client.workers.status`, with its errors."""
        return await self._driver.drive(operators.fleet_status(self._context))

    async def drain(self, worker_id: str, *, stop: bool = False) -> Worker:
        """As `Client.workers.drain`, with its errors."""
        return await self._driver.drive(operators.drain(self._context, worker_id, stop))

    async def cordon(self, worker_id: str) -> Worker:
        """As `Client.workers.cordon`, with its errors."""
        return await self._driver.drive(operators.cordon(self._context, worker_id))

    async def uncordon(self, worker_id: str) -> Worker:
        """As `Client.workers.uncordon`, with its errors."""
        return await self._driver.drive(operators.uncordon(self._context, worker_id))
