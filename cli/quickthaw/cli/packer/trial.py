"""The self-test of what was packed, as the tenant: it sees the request, and pays for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from quickthaw.cli.looking import check_output
from quickthaw.cli.trial_values import missing, plain_values
from quickthaw.client import (
    AsyncClient,
    Deployment,
    Event,
    JsonValue,
    KeyLimits,
    Model,
    ModelEndpoint,
    Previewed,
    Progressed,
    Scope,
    Visibility,
)
from quickthaw.wire.errors import InvalidInput, NotFound

STAGED = "self-test"
"""Owner of the names under which it is tried; the platform removes them with the deployment."""
_KEY_SECONDS = 60.0
"""How much longer than the test its key is good."""

OnStep = Callable[[str, int, int, str], None]
"""Told the step, steps done, steps in all, and the request."""


@dataclass(frozen=True, slots=True)
class Drawn:
    request_id: str
    preview: Previewed | None
    """The last one, if there were any."""


def test_values(model: Model, given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What was given, and a plain prompt and seed where they were not. Raises InvalidInput for
    what the model needs and nobody gave."""
    values = {**plain_values(model), **given}
    if names := missing(model, values):
        raise InvalidInput(f"the self-test cannot make up {', '.join(names)}: give them in `test`")
    return values


async def draw(
    client: AsyncClient,
    model: Model,
    deployment: Deployment,
    seconds_max: float,
    on_step: OnStep,
) -> Drawn:
    """Raises what the request failed with, BudgetExhausted, DeadlineExpired, and EngineFailed for
    what has nothing on it."""
    preview: Previewed | None = None
    values = test_values(model, deployment.spec.test or {})
    on_step("waiting for a worker", 0, 0, "")

    def on_event(event: Event) -> None:
        nonlocal preview
        if isinstance(event, Previewed):
            preview = event
        if isinstance(event, Progressed):
            on_step("drawing", event.step, event.steps, event.request_id)
        else:
            on_step("drawing", 0, 0, event.request_id)

    async with _staged(client, model, deployment, seconds_max) as (name, tenant):
        request = await tenant.run(name, values, on_event=on_event, deadline_seconds=seconds_max)
        for artifact in request.artifacts:
            check_output(await tenant.read_artifact(artifact), artifact.content_type)
    return Drawn(request.request_id, preview)


@asynccontextmanager
async def _staged(
    client: AsyncClient, model: Model, deployment: Deployment, seconds_max: float
) -> AsyncIterator[tuple[str, AsyncClient]]:
    """In the catalog for the tenant alone, with a client that is the tenant's for as long."""
    name = f"{STAGED}/{deployment.deployment_id}"
    endpoint = ModelEndpoint(name, visibility=Visibility.PRIVATE, owner_tenant=deployment.tenant)
    await client.models.register(replace(model, id=name, aliases=()), endpoint)
    made = await client.keys.create(
        deployment.tenant,
        (Scope.CALL,),
        label=f"self-test of {deployment.deployment_id}",
        expires_unix_ms=int((time.time() + seconds_max + _KEY_SECONDS) * 1000),
        limits=KeyLimits(models=(name,)),
    )
    try:
        async with AsyncClient(client.endpoint.target, made.secret) as tenant:
            yield name, tenant
    finally:
        with suppress(NotFound):
            await client.keys.revoke(made.key.key_id)
        with suppress(NotFound):
            await client.models.remove(name)
