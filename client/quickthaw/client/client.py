"""The blocking client."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from quickthaw.client import artifacts, inference, operators, traffic, versions
from quickthaw.client.accounts import Accounts
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
from quickthaw.client.deployments import Deployments
from quickthaw.client.events import Event
from quickthaw.client.fleet import Explanation, FleetStatus, Worker
from quickthaw.client.inference import SubmitOptions
from quickthaw.client.keys import Keys
from quickthaw.client.operators import Period
from quickthaw.client.requests import (
    Artifact,
    JsonObject,
    Quote,
    Request,
    RequestState,
    Submitted,
)
from quickthaw.client.retry import Context
from quickthaw.client.settings import Endpoint, find_endpoint
from quickthaw.client.sync_driver import SyncDriver
from quickthaw.client.traffic import TrafficEntry
from quickthaw.client.webhooks import Webhooks
from quickthaw.wire.tls_settings import TlsFiles


class Client:
    """A connection to a Quickthaw scheduler; safe to use from several threads.

        with Client() as client:
            request = client.run("quickthaw/shapes", {"prompt": "a red circle"})
            for artifact in request.artifacts:
                client.save_artifact(artifact, Path("."))

    `grpc` and `key` default to `$QUICKTHAW_GRPC` and `$QUICKTHAW_KEY`, then to the platform that
    `quickthaw up` runs on `data_dir` (see `find_endpoint`). Every call may raise, beside what its
    own text names: Unauthenticated and PermissionDenied (the key), Unavailable (nobody answered
    within the retry policy of `context`), ResourceExhausted (over a limit for longer than that),
    Internal. All of them are classes of quickthaw.wire.errors. Calls that change something are
    repeated after a broken connection only where a repetition is harmless.
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
        self._driver = SyncDriver(self.endpoint)
        self.models = Models(self._context, self._driver)
        self.endpoints = Endpoints(self._context, self._driver)
        self.accounts = Accounts(self._context, self._driver)
        self.workers = Workers(self._context, self._driver)
        self.keys = Keys(self._context, self._driver)
        self.deployments = Deployments(self._context, self._driver)
        self.webhooks = Webhooks(self._context, self._driver)

    def close(self) -> None:
        """Ends what is under way. Later calls raise FailedPrecondition."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def submit(
        self, model: str, input: JsonObject | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        """Hands a request in; it is journalled when this returns, and then ends exactly once.

        Safe against a lost answer: an idempotency key is made up where the caller names none.
        Raises ModelNotFound, InvalidInput (with `violations`), QueueFull, StorageFull,
        BudgetExhausted, ModelCannotFit, DeadlineExpired (the deadline has passed), AlreadyExists
        (the idempotency key was used for something else), MessageTooLarge.
        """
        return self._driver.drive(inference.submit(self._context, model, input or {}, options))

    def run(
        self,
        model: str,
        input: JsonObject | None = None,
        *,
        on_event: Callable[[Event], object] | None = None,
        timeout_seconds: float | None = None,
        raise_for_failure: bool = True,
        **options: Unpack[SubmitOptions],
    ) -> Request:
        """Submits, watches to the end across broken connections, answers with the ended request.

        An interruption (Ctrl-C, an error of `on_event`, `timeout_seconds` over) cancels the request
        on the way out. If the server stays unreachable for longer than the retry policy, the
        request may still run: Unavailable then has its id in `metadata["request_id"]`.
        Raises as `submit`; DeadlineExpired after `timeout_seconds`; unless `raise_for_failure` is
        False, what the request failed with (see `Request.raise_for_failure`).
        """
        operation = inference.run(self._context, model, input or {}, options, timeout_seconds)
        request = self._driver.drive(operation, on_event)
        return request.raise_for_failure() if raise_for_failure else request

    def get(self, request_id: str) -> Request:
        """The request as it is now. Raises RequestNotFound."""
        return self._driver.drive(inference.get(self._context, request_id))

    def list(
        self,
        *,
        states: Iterable[RequestState] = (),
        model: str = "",
        limit: int | None = None,
    ) -> Generator[Request, None, None]:
        """The tenant's requests, newest first, fetched page by page. No states means all."""
        return self._driver.iterate(inference.list_requests(self._context, states, model, limit))

    def watch(
        self, request_id: str, *, after_sequence: int = 0, timeout_seconds: float | None = None
    ) -> Generator[Event, None, None]:
        """Every event after `after_sequence`, each once, until the request ends.

        Connects again where it broke off. The last event is `Finished`. Raises RequestNotFound;
        DeadlineExpired after `timeout_seconds`, which leaves the request alone.
        """
        return self._driver.iterate(
            inference.watch(self._context, request_id, after_sequence, timeout_seconds)
        )

    def cancel(self, request_id: str) -> RequestState:
        """Asks for cancellation; the state right after. Idempotent. Raises RequestNotFound."""
        return self._driver.drive(inference.cancel(self._context, request_id))

    def quote(
        self, model: str, input: JsonObject | None = None, **options: Unpack[SubmitOptions]
    ) -> Quote:
        """Where the request would go now, when it would start, its price. Raises as `submit`."""
        return self._driver.drive(inference.quote(self._context, model, input or {}, options))

    def read_artifact(self, artifact: Artifact | str) -> bytes:
        """An output file's bytes, checked against its SHA-256.

        Raises ArtifactNotFound; ArtifactCorrupt if the stored bytes are not those of the record.
        """
        return self._driver.drive(artifacts.read_artifact(self._context, artifact))

    def save_artifact(self, artifact: Artifact | str, path: Path | str) -> Path:
        """Writes an output file to `path`, or into it if it is a folder; the file's path.

        The file appears whole and checked, or not at all. Raises as `read_artifact`; StorageFull;
        OSError as opening a file does.
        """
        return self._driver.drive(artifacts.save_artifact(self._context, artifact, Path(path)))

    def explain(self, request_id: str) -> Explanation:
        """Why a request ran where it did. Raises RequestNotFound, also when it is long past."""
        return self._driver.drive(operators.explain(self._context, request_id))

    def usage(self, period: Period | None = None, *, by: Sequence[UsageDimension] = ()) -> Usage:
        """The sum of a period, by model and kind of GPU unless `by` says otherwise. Raises
        PermissionDenied for others'."""
        return self._driver.drive(operators.usage(self._context, period or Period(), by))

    def ledger(
        self, period: Period | None = None, *, request_id: str = ""
    ) -> Generator[LedgerLine, None, None]:
        """One line for each finished attempt, oldest first. Raises PermissionDenied for others'."""
        return self._driver.iterate(operators.ledger(self._context, period or Period(), request_id))

    def traffic(
        self, *, from_unix_ms: int = 0, until_unix_ms: int = 0
    ) -> Generator[TrafficEntry, None, None]:
        """Every tenant's ended requests, in order of submission. Raises PermissionDenied."""
        return self._driver.iterate(
            traffic.list_traffic(self._context, from_unix_ms, until_unix_ms)
        )

    def prices(self) -> PriceTable:
        """The price table in force."""
        return self._driver.drive(operators.prices(self._context))


class Models:
    """The catalog, as `Client.models`."""

    def __init__(self, context: Context, driver: SyncDriver) -> None:
        self._context = context
        self._driver = driver

    def list(self) -> Generator[Model, None, None]:
        """Every model, fetched page by page."""
        return self._driver.iterate(operators.list_models(self._context))

    def get(self, model: str) -> Model:
        """By id or alias. Raises ModelNotFound."""
        return self._driver.drive(operators.get_model(self._context, model))

    def register(self, model: Model, endpoint: ModelEndpoint | None = None) -> Registered:
        """Adds a model, or replaces it by a new snapshot. Needs the scope `admin`.

        With `endpoint` it is served so from its first moment; a private one without an owner is
        the caller's. Raises InvalidArgument (id, digest, schema or setting) and AlreadyExists (the
        id or an alias belongs to another model).
        """
        return self._driver.drive(operators.register_model(self._context, model, endpoint))

    def versions(self, model: str) -> Generator[ModelVersion, None, None]:
        """What the model has been, the newest first. Raises ModelNotFound."""
        return self._driver.iterate(versions.list_versions(self._context, model))

    def rollback(self, model: str, number: int) -> Registered:
        """Makes it that version again. Needs `admin`. Raises ModelNotFound, NotFound."""
        return self._driver.drive(versions.rollback(self._context, model, number))

    def unused_snapshots(self) -> tuple[UnusedSnapshot, ...]:
        """What was registered once and is needed no more. Needs `admin`."""
        return self._driver.drive(versions.unused_snapshots(self._context))

    def remove(self, model: str) -> None:
        """Takes a model out; accepted requests still run. Raises ModelNotFound."""
        self._driver.drive(operators.remove_model(self._context, model))


class Endpoints:
    """How models are served, as `Client.endpoints`."""

    def __init__(self, context: Context, driver: SyncDriver) -> None:
        self._context = context
        self._driver = driver

    def list(self) -> Generator[ModelEndpoint, None, None]:
        """Every model's endpoint, fetched page by page."""
        return self._driver.iterate(operators.list_endpoints(self._context))

    def get(self, model: str) -> ModelEndpoint:
        """By id or alias. Raises ModelNotFound."""
        return self._driver.drive(operators.get_endpoint(self._context, model))

    def set(self, model: str, endpoint: ModelEndpoint, names: Sequence[str] = ()) -> ModelEndpoint:
        """Changes the named settings to those of `endpoint`, or all of them. Needs `admin`.

        Raises InvalidArgument, which names each setting that is wrong, and ModelNotFound.
        """
        return self._driver.drive(operators.set_endpoint(self._context, model, endpoint, names))

    def release(self, model: str) -> ModelEndpoint:
        """Lets a quarantined model run again. Needs `admin`. Raises ModelNotFound."""
        return self._driver.drive(operators.release_quarantine(self._context, model))


class Workers:
    """The fleet, as `Client.workers`. Needs the scope `admin`."""

    def __init__(self, context: Context, driver: SyncDriver) -> None:
        self._context = context
        self._driver = driver

    def list(self) -> tuple[Worker, ...]:
        """Every worker that is attached, or within its lease."""
        return self._driver.drive(operators.list_workers(self._context))

    def status(self) -> FleetStatus:
        """The same, with how many workers are needed."""
        return self._driver.drive(operators.fleet_status(self._context))

    def drain(self, worker_id: str, *, stop: bool = False) -> Worker:
        """No new requests; what runs ends; with `stop` the process exits then.

        Raises WorkerNotFound.
        """
        return self._driver.drive(operators.drain(self._context, worker_id, stop))

    def cordon(self, worker_id: str) -> Worker:
        """No new requests until `uncordon`; nothing is stopped. Raises WorkerNotFound."""
        return self._driver.drive(operators.cordon(self._context, worker_id))

    def uncordon(self, worker_id: str) -> Worker:
        """Undoes `cordon`, and a `drain` that has not stopped the worker. Raises WorkerNotFound."""
        return self._driver.drive(operators.uncordon(self._context, worker_id))
