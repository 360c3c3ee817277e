"""A gateway on a real socket in front of a platform that a test plays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from quickthaw.gateway.server import Listening, running
from quickthaw.gateway.settings import GatewaySettings, Limits
from quickthaw.wire.process import Address
from support.fake_inference import ADMIN_KEY, ALICE_KEY, MODEL_ID, FakePlatform, served
from support.patience import PATIENCE_SECONDS

ANY_PORT = Address("127.0.0.1", 0)


@dataclass
class Rig:
    platform: FakePlatform
    listening: Listening
    http: httpx.AsyncClient
    """Sends alice's key."""
    nobody: httpx.AsyncClient
    """Sends no key."""
    scheduler_port: int
    scheduler: AsyncExitStack
    """Closing it stops the platform's server; what runs on the platform stays."""

    async def stop_scheduler(self) -> None:
        await self.scheduler.aclose()

    async def restart_scheduler(self) -> None:
        """On the same port, with every request and no memory of events."""
        await self.scheduler.aclose()
        self.platform.forget_events()
        await self.scheduler.enter_async_context(served(self.platform, self.scheduler_port))

    async def metrics(self) -> dict[str, float]:
        """By the sample's name with its labels, as Prometheus reads them."""
        assert self.listening.metrics_url is not None
        text = (await self.nobody.get(self.listening.metrics_url)).text
        samples = [line.rpartition(" ") for line in text.splitlines() if line[:1] != "#"]
        return {name: float(value) for name, _, value in samples}


@asynccontextmanager
async def a_gateway(
    folder: Path,
    *,
    limits: Limits | None = None,
    with_key: bool = True,
    with_metrics: bool = False,
    with_tls: bool = False,
    with_blobs: bool = True,
    blob_store: str | None = None,
    input_allow_private: bool = False,
    own_certificate: tuple[Path, Path] | None = None,
) -> AsyncIterator[Rig]:
    platform = FakePlatform()
    key_file = folder / "admin.key"
    key_file.write_text(ADMIN_KEY + "\n")
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(AsyncExitStack())
        port = await scheduler.enter_async_context(served(platform))
        listening = await stack.enter_async_context(
            running(
                GatewaySettings(
                    scheduler=Address("127.0.0.1", port),
                    http=ANY_PORT,
                    metrics=ANY_PORT if with_metrics else None,
                    key_file=key_file if with_key else None,
                    link_secret_file=folder / "links.secret",
                    default_model=MODEL_ID,
                    input_allow_private=input_allow_private,
                    blob_store=(blob_store or str(folder / "blobs")) if with_blobs else None,
                    tls_dir=folder / "tls" if with_tls else None,
                    tls_certificate=own_certificate[0] if own_certificate else None,
                    tls_key=own_certificate[1] if own_certificate else None,
                    limits=limits or Limits(drain_seconds=1),
                )
            )
        )
        key = {"authorization": f"Key {ALICE_KEY}"}
        http = httpx.AsyncClient(
            base_url=listening.public_url, headers=key, timeout=PATIENCE_SECONDS
        )
        nobody = httpx.AsyncClient(base_url=listening.public_url, timeout=PATIENCE_SECONDS)
        await stack.enter_async_context(http)
        await stack.enter_async_context(nobody)
        yield Rig(platform, listening, http, nobody, port, scheduler)


async def events_of(response: httpx.Response) -> list[dict[str, object]]:
    """Each event of a stream, to its end. Fails on anything but `data:` lines and comments."""
    found: list[dict[str, object]] = []
    async for line in response.aiter_lines():
        if not line or line.startswith(":"):
            continue
        name, _, value = line.partition(": ")
        assert name == "data", line
        event = json.loads(value)
        assert isinstance(event, dict)
        found.append(event)
    return found
