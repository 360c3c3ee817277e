"""What every handler of one gateway shares."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from quickthaw.gateway.body_room import BodyRoom
from quickthaw.gateway.cors import Cors
from quickthaw.gateway.fanout import Fanout
from quickthaw.gateway.holders import Holders
from quickthaw.gateway.inputs import Inputs
from quickthaw.gateway.links import Links
from quickthaw.gateway.metrics import GatewayMetrics
from quickthaw.gateway.outbound import Outbound
from quickthaw.gateway.platform import Credential, Platform
from quickthaw.gateway.sealed import Sealer
from quickthaw.gateway.settings import Limits
from quickthaw.gateway.storage import Uploads
from quickthaw.gateway.upload_places import UploadPlaces
from quickthaw.gateway.usage import PastUsage

FAREWELL_SECONDS = 5.0


@dataclass(slots=True)
class Gateway:
    limits: Limits
    platform: Platform
    links: Links
    sealer: Sealer
    inputs: Inputs
    metrics: GatewayMetrics
    public_url: str
    """Without a trailing slash."""
    own_credential: Credential
    """For reading files on behalf of a link's holder; empty if the gateway has no key."""
    ca_pem: bytes = b""
    """The local certificate authority's certificate, for clients to trust; empty without one."""
    default_model: str = ""
    cors: Cors = field(default_factory=Cors)
    uploads: Uploads | None = None
    """None: there is no blob store, so nobody can bring files."""
    webhook_outbound: Outbound | None = None
    """Calls the receivers of webhooks that are told on the way; None where the gateway delivers
    none at all."""
    followed: int = 0
    """Predictions whose way is told to a receiver now."""
    draining: bool = False
    fanout: Fanout = field(init=False)
    body_room: BodyRoom = field(init=False)
    upload_places: UploadPlaces = field(init=False)
    holders: Holders = field(init=False)
    past_usage: PastUsage = field(init=False)
    _chores: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.fanout = Fanout(self.platform, self.limits)
        share = self.limits.share_of_free
        self.body_room = BodyRoom(self.limits.bodies_bytes_max, share)
        self.upload_places = UploadPlaces(self.limits.uploads_max, share)
        self.holders = Holders(self.platform)
        self.past_usage = PastUsage(self.platform)

    @property
    def stored_uploads(self) -> Uploads:
        """For who found a file there."""
        assert self.uploads is not None
        return self.uploads

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Runs what must happen although the request that wanted it is over, such as a cancel.

        Bounded by the requests that can be open and by each call's own time limit.
        """
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def close(self) -> None:
        if self._chores:
            await asyncio.wait(set(self._chores), timeout=FAREWELL_SECONDS)
        await self.inputs.outbound.close()
        await self.platform.close()


def gateway_of(request: HTTPConnection) -> Gateway:
    gateway = request.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway
