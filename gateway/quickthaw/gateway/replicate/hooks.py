"""Webhooks as Replicate's callers know them.

The last one, `completed`, is in the scheduler's outbox and survives everything. Those on the way
(`start`, `output`, `logs`) are told in their order by the gateway that took the call, each in a few
tries, for as long as that gateway lives: whoever needs certainty waits for the last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.follow import follow, next_event
from quickthaw.gateway.json_text import JsonObject, render
from quickthaw.gateway.outbound import OutboundError, OutboundLimits, OutboundRefused
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replicate.progress import Log
from quickthaw.gateway.replicate.render import Told, output_of, prediction
from quickthaw.gateway.webhooks.signing import Sealed, standard_headers
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import QuickthawError

logger = logging.getLogger(__name__)

LOGS_SECONDS_MIN = 0.5
"""Between two webhooks about the log of one prediction."""
FOLLOWED_MAX = 256
"""Predictions whose way one gateway tells of; one more has its last webhook only."""
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.5, 5.0
"""Between two tries of one webhook."""
_ANSWER_BYTES_MAX = 4 * 1024
_ON_THE_WAY = "replicate_on_the_way"
"""As metrics call them."""


async def webhook_body(gateway: Gateway, request: types_pb2.Request) -> JsonObject:
    """The prediction as it ended. Its log is with the one who asks for it: the events of a request
    may be gone by the time of a late delivery."""
    output = await output_of(gateway, gateway.own_credential, request)
    return prediction(gateway, Credential(""), request, Told(output=output))


def tell_on_the_way(
    gateway: Gateway, credential: Credential, request_id: str, url: str, events: Sequence[str]
) -> None:
    if gateway.webhook_outbound is None or gateway.followed >= FOLLOWED_MAX:
        logger.info("the webhooks of %s on its way are left out", request_id)
        return
    gateway.followed += 1
    gateway.start(_follow(_Teller(gateway, credential, request_id, url), events))


class _Teller:
    def __init__(self, gateway: Gateway, credential: Credential, request_id: str, url: str) -> None:
        self.gateway = gateway
        self.credential = credential
        self.request_id = request_id
        self.log = Log(gateway.limits.log_lines_max)
        self._url = url
        self._sent = 0
        self._refused = False

    async def tell(self, event: str) -> None:
        """As things are now, in a few tries; whoever takes none of them has missed it."""
        if self._refused:
            return
        gateway = self.gateway
        request = await gateway.platform.get(self.credential, self.request_id)
        output = await output_of(gateway, self.credential, request)
        told = Told(self.log.text, self.log.started_unix_ms, output)
        body = render(prediction(gateway, self.credential, request, told)).encode()
        self._sent += 1
        message_id = f"msg_{self.request_id}_{event}_{self._sent}"
        pause_seconds = PAUSE_SECONDS
        for tries_left in reversed(range(gateway.limits.webhook_progress_tries)):
            failed = await self._try(message_id, body)
            outcome = "failed" if failed else "delivered"
            gateway.metrics.webhooks.labels(_ON_THE_WAY, outcome).inc()
            if not failed:
                return
            logger.info("webhook %s of %s: %s", event, self.request_id, failed)
            if self._refused or not tries_left:
                return
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    async def _try(self, message_id: str, body: bytes) -> str:
        """Why it failed; empty if it did not. Signed anew each time: receivers look at the age."""
        gateway = self.gateway
        assert gateway.webhook_outbound is not None, "checked before following"
        signer = await gateway.platform.webhook_secret(self.credential)
        sealed = Sealed(self.request_id, signer.tenant, int(time.time()), body)
        try:
            answer = await gateway.webhook_outbound.request(
                "POST",
                self._url,
                OutboundLimits(_ANSWER_BYTES_MAX, gateway.limits.webhook_seconds, keep_start=True),
                headers={
                    "content-type": "application/json",
                    **standard_headers(sealed, message_id, signer.secret),
                },
                body=body,
            )
        except OutboundError as error:
            # Asking the same thing again would be refused again.
            self._refused = isinstance(error, OutboundRefused)
            return str(error)
        ok = 200 <= answer.status < 300
        return "" if ok else f"the receiver answered {answer.status}"


async def _follow(teller: _Teller, wanted: Sequence[str]) -> None:
    gateway = teller.gateway
    events = follow(gateway.platform, teller.credential, teller.request_id)
    try:
        async with asyncio.timeout(gateway.limits.run_seconds_max):
            await _tell(teller, events, wanted)
    except (QuickthawError, TimeoutError) as error:
        logger.info("the webhooks of %s on its way ended: %s", teller.request_id, error)
    except Exception:
        logger.exception("the webhooks of %s on its way", teller.request_id)
    finally:
        gateway.followed -= 1
        await events.aclose()


async def _tell(
    teller: _Teller,
    events: AsyncGenerator[inference_pb2.Event, None],
    wanted: Sequence[str],
) -> None:
    loop = asyncio.get_running_loop()
    logs_told, logs_new = 0.0, False
    while (event := await next_event(events)) is not None:
        began = not teller.log.started_unix_ms
        logs_new = teller.log.take(event) is not None or logs_new
        if began and teller.log.started_unix_ms and "start" in wanted:
            await teller.tell("start")
        if "logs" in wanted and logs_new and loop.time() - logs_told >= LOGS_SECONDS_MIN:
            await teller.tell("logs")
            logs_told, logs_new = loop.time(), False
        if event.HasField("finished"):
            succeeded = event.finished.state == types_pb2.REQUEST_STATE_SUCCEEDED
            if "output" in wanted and succeeded:
                await teller.tell("output")
            return
