"""Schedulers for tests: one in this event loop, or one as a process of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.scheduler import Scheduler, start
from quickthaw.scheduler.settings import Limits, Settings
from quickthaw.v1 import (
    billing_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    traffic_pb2_grpc,
    types_pb2,
)
from quickthaw.wire.limits import CHANNEL_OPTIONS
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import TLS_SCHEME, ServerTls
from support.key_metadata import key_interceptors
from support.patience import PATIENCE_SECONDS

SCHEMA = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "maxLength": 200},
        "num_images": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
        "image_size": {
            "type": "object",
            "properties": {
                "width": {"type": "integer", "minimum": 64, "maximum": 1024, "default": 64},
                "height": {"type": "integer", "minimum": 64, "maximum": 1024, "default": 64},
            },
            "additionalProperties": False,
            "default": {},
        },
    },
    "required": ["prompt"],
    "additionalProperties": False,
}

FAST = Limits(
    lease_ms=30_000,
    heartbeat_interval_ms=100,
    tick_ms=20,
    stop_grace_ms=500,
    store_lock_wait_ms=200,
)
"""Ticks short enough for tests; a lease that is not lost because a machine is busy."""
QUICK_TO_LOSE = dataclasses.replace(FAST, lease_ms=3_000)
"""For tests in which a worker is to be lost."""


def a_model(model_id: str = "test/tiny", *, size_bytes: int = 1_000_000) -> catalog_pb2.Model:
    """A model that shares its text encoder with every other test model of its size."""
    return catalog_pb2.Model(
        id=model_id,
        aliases=[model_id.split("/")[1]],
        family="sd",
        snapshot_digest="ab" * 32,
        snapshot_uri="/snapshots/tiny",
        components=[
            catalog_pb2.Component(name="text_encoder", digest="cd" * 32, size_bytes=size_bytes),
            catalog_pb2.Component(
                name="unet",
                digest=model_id.encode().hex().ljust(64, "0")[:64],
                size_bytes=size_bytes,
            ),
        ],
        working_bytes=1_000_000,
        input_schema_json=json.dumps(SCHEMA),
        description="for tests",
        license="Apache-2.0",
    )


@dataclass(slots=True)
class Caller:
    """Stubs that send one key."""

    address: str
    key: str
    channel: grpc.aio.Channel = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(
            self.address, options=CHANNEL_OPTIONS, interceptors=key_interceptors(self.key)
        )

    @property
    def inference(self) -> inference_pb2_grpc.InferenceAsyncStub:
        return inference_pb2_grpc.InferenceStub(self.channel)

    @property
    def catalog(self) -> catalog_pb2_grpc.CatalogAsyncStub:
        return catalog_pb2_grpc.CatalogStub(self.channel)

    @property
    def fleet(self) -> fleet_pb2_grpc.FleetAsyncStub:
        return fleet_pb2_grpc.FleetStub(self.channel)

    @property
    def billing(self) -> billing_pb2_grpc.BillingAsyncStub:
        return billing_pb2_grpc.BillingStub(self.channel)

    @property
    def accounts(self) -> billing_pb2_grpc.AccountsAsyncStub:
        return billing_pb2_grpc.AccountsStub(self.channel)

    @property
    def traffic(self) -> traffic_pb2_grpc.TrafficAsyncStub:
        return traffic_pb2_grpc.TrafficStub(self.channel)

    async def submit(self, model: str = "test/tiny", **fields: object) -> str:
        """Submits `a red circle`; the request's id."""
        answer = await self.inference.Submit(submission(model, **fields))
        return answer.request_id

    async def until_ended(self, request_id: str) -> types_pb2.Request:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self.inference.Watch(
                inference_pb2.WatchRequest(request_id=request_id)
            ):
                if event.HasField("finished"):
                    return event.finished
        raise AssertionError("the watch ended without the finished request")

    async def until_state(
        self, request_id: str, state: types_pb2.RequestState.ValueType
    ) -> inference_pb2.StateChange:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self.inference.Watch(
                inference_pb2.WatchRequest(request_id=request_id)
            ):
                if event.state_change.state == state:
                    return event.state_change
        raise AssertionError(f"never reached {types_pb2.RequestState.Name(state)}")

    async def until_run(self, request_id: str, attempt: int) -> None:
        """Until that attempt runs."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self.inference.Watch(
                inference_pb2.WatchRequest(request_id=request_id)
            ):
                change = event.state_change
                if (change.state, change.attempt) == (types_pb2.REQUEST_STATE_RUNNING, attempt):
                    return
        raise AssertionError(f"attempt {attempt} never ran")


def submission(model: str = "test/tiny", **fields: object) -> inference_pb2.SubmitRequest:
    values: dict[str, object] = {"input_json": '{"prompt": "a red circle"}', **fields}
    return inference_pb2.SubmitRequest(model=model, **values)  # type: ignore[arg-type] # by name


@dataclass(slots=True)
class Running:
    """A scheduler in this loop and what tests need to talk to it."""

    settings: Settings
    scheduler: Scheduler
    admin: Caller
    worker_key: str

    @property
    def address(self) -> str:
        """As it is dialled."""
        scheme = TLS_SCHEME if self.settings.tls is not None else ""
        return f"{scheme}{self.scheduler.grpc_address}"


def settings_for(data_dir: Path, store_url: str | None = None, limits: Limits = FAST) -> Settings:
    return Settings(
        data_dir=data_dir,
        grpc=Address("127.0.0.1", 0),
        metrics=Address("127.0.0.1", 0),
        store_url=store_url or f"sqlite:///{data_dir / 'quickthaw.db'}",
        blob_store=str(data_dir / "blobs"),
        limits=limits,
    )


@asynccontextmanager
async def a_scheduler(
    data_dir: Path,
    *,
    store_url: str | None = None,
    limits: Limits = FAST,
    models: Sequence[catalog_pb2.Model] | None = None,
    clock: Clock | None = None,
    tls: ServerTls | None = None,
) -> AsyncIterator[Running]:
    """Serving on free ports, with the model `test/tiny` unless others are given. With `tls` the
    admin calls by the plain address beside it."""
    settings = settings_for(data_dir, store_url, limits)
    if tls is not None:
        settings = dataclasses.replace(settings, tls=tls, grpc_local=Address("127.0.0.1", 0))
    scheduler = await start(settings, clock)
    address = str(scheduler.local_address or scheduler.grpc_address)
    admin = Caller(address, (data_dir / "admin.key").read_text().strip())
    try:
        for model in [a_model()] if models is None else models:
            await admin.catalog.Register(catalog_pb2.RegisterRequest(model=model))
        yield Running(settings, scheduler, admin, (data_dir / "worker.key").read_text().strip())
    finally:
        await admin.channel.close()
        await scheduler.stop()


class SchedulerProcess:
    """`python -m quickthaw.scheduler` with free ports the first time and the same ones after."""

    def __init__(
        self,
        data_dir: Path,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.flags = list(flags)
        self.environment = {**os.environ, **(environment or {})}
        self.grpc = "127.0.0.1:0"
        self.metrics = "127.0.0.1:0"
        self.process: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        data_dir = str(self.data_dir)
        module = [sys.executable, "-m", "quickthaw.scheduler", "--data-dir", data_dir]
        return [*module, "--grpc", self.grpc, "--metrics", self.metrics, *self.flags]

    def start(self) -> None:
        """Returns when it has printed its ready line."""
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.PIPE, text=True, env=self.environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        assert line.startswith("quickthaw-scheduler ready "), line
        self.grpc = words["grpc"]
        self.metrics = words["metrics"].removeprefix("http://").removesuffix("/metrics")

    def kill(self) -> None:
        """As a power cut would, for this process."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        status = self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()
        self.process = None
        return status

    def key(self, name: str) -> str:
        return (self.data_dir / f"{name}.key").read_text().strip()

    def __enter__(self) -> SchedulerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()
