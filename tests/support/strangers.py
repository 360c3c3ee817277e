"""Two tenants of one platform: alice, who has things, and bob, who knows what they are called."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from quickthaw.gateway.server import running
from quickthaw.gateway.settings import GatewaySettings, Limits
from quickthaw.v1 import billing_pb2, catalog_pb2, types_pb2, webhooks_pb2
from quickthaw.wire.process import Address
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import Caller, Running, a_model, a_scheduler

SECRET_MODEL = "alice/secret"
HOOK_SECRET = "hook-s3cret"
PICTURE = b"\x89PNG and so on"
UPLOAD = b"what alice brought"


@dataclass
class Strangers:
    scheduler: Running
    worker: FakeWorker
    url: str
    alice: Caller
    bob: Caller
    http_alice: httpx.AsyncClient
    http_bob: httpx.AsyncClient
    nobody: httpx.AsyncClient
    request_id: str = ""
    """Alice's, on her private model, ended with a picture and told to a webhook."""
    file_id: str = ""
    """Alice's upload."""

    async def fill(self) -> None:
        """Makes what alice has."""
        target = webhooks_pb2.WebhookTarget(
            url=f"https://alice.invalid/hook?token={HOOK_SECRET}",
            dialect=webhooks_pb2.WEBHOOK_DIALECT_FAL,
        )
        self.request_id = await self.alice.submit(SECRET_MODEL, webhook=target)
        assign = await self.worker.next_assign()
        uri = f"artifacts/{self.request_id}/0.png"
        path = Path(self.scheduler.settings.blob_store) / uri
        await asyncio.to_thread(_write, path)
        artifact = types_pb2.Artifact(
            uri=uri,
            name="0.png",
            content_type="image/png",
            size_bytes=len(PICTURE),
            sha256=hashlib.sha256(PICTURE).hexdigest(),
        )
        self.worker.finish(assign, metered_ms=500, artifacts=[artifact])
        await self.alice.until_ended(self.request_id)
        answer = await self.http_alice.post("/replicate/v1/files", files={"content": UPLOAD})
        assert answer.status_code == 201, answer.text
        self.file_id = str(answer.json()["id"])


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(PICTURE)


async def a_key(scheduler: Running, tenant: str) -> str:
    request = billing_pb2.CreateKeyRequest(tenant=tenant, scopes=[billing_pb2.SCOPE_CALL])
    return (await scheduler.admin.accounts.CreateKey(request)).secret


@asynccontextmanager
async def two_tenants(folder: Path, *, limits: Limits | None = None) -> AsyncIterator[Strangers]:
    async with a_scheduler(folder / "data") as scheduler:
        await scheduler.admin.catalog.Register(
            catalog_pb2.RegisterRequest(
                model=a_model(SECRET_MODEL),
                endpoint=catalog_pb2.Endpoint(
                    visibility=catalog_pb2.VISIBILITY_PRIVATE, owner_tenant="alice"
                ),
            )
        )
        settings = GatewaySettings(
            scheduler=Address.parse(scheduler.address),
            http=Address("127.0.0.1", 0),
            key_file=folder / "data" / "admin.key",
            link_secret_file=folder / "links.secret",
            blob_store=scheduler.settings.blob_store,
            log_level="debug",
            limits=limits or Limits(drain_seconds=1, model_cache_seconds=0.001),
        )
        keys = {name: await a_key(scheduler, name) for name in ("alice", "bob")}
        async with (
            FakeWorker(scheduler.address, scheduler.worker_key) as worker,
            running(settings) as listening,
            _browsing(listening.public_url, keys["alice"]) as http_alice,
            _browsing(listening.public_url, keys["bob"]) as http_bob,
            httpx.AsyncClient(base_url=listening.public_url, timeout=PATIENCE_SECONDS) as nobody,
        ):
            strangers = Strangers(
                scheduler,
                worker,
                listening.public_url,
                Caller(scheduler.address, keys["alice"]),
                Caller(scheduler.address, keys["bob"]),
                http_alice,
                http_bob,
                nobody,
            )
            await strangers.fill()
            yield strangers


def _browsing(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Key {key}"}, timeout=PATIENCE_SECONDS
    )


@dataclass(frozen=True)
class Names:
    """What a question names; all of one length, so that answers can be compared."""

    model: str
    request: str
    file: str
    tenant: str


NOBODYS = Names("alice/secrex", "0" * 26, "0" * 22, "alicx")


def hers(strangers: Strangers) -> Names:
    return Names(SECRET_MODEL, strangers.request_id, strangers.file_id, "alice")


def nobodys(of: Names) -> Names:
    """Names of the same shape that nobody has."""
    return Names("alice/secrex", turned(of.request), turned(of.file), "alicx")


def turned(text: str) -> str:
    return text[:-1] + ("1" if text[-1] == "0" else "0")
