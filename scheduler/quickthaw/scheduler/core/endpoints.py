"""How models are served: what operators set, as it changes."""

from __future__ import annotations

from quickthaw.scheduler.core.events import EndpointChanged
from quickthaw.scheduler.core.model import ModelId, ModelSpec, Tier, WorkerId
from quickthaw.scheduler.core.reservations import settle
from quickthaw.scheduler.core.state import State


def on_changed(state: State, event: EndpointChanged) -> None:
    if event.settings is None:
        state.endpoints.pop(event.model, None)
    else:
        state.endpoints[event.model] = event.settings
    if event.spec is None or event.settings is None:
        state.specs.pop(event.model, None)
    else:
        state.specs[event.model] = event.spec
    if state.endpoint(event.model).dedicated:
        state.fleet.dedicated.add(event.model)
    else:
        state.fleet.dedicated.discard(event.model)
    settle(state)
    state.limits.endpoint_may_go_on(event.model)


def replicas(state: State, model: ModelSpec) -> int:
    """Workers that have all of the model in VRAM by their plan."""
    largest = next(iter(model.sizes), None)
    if largest is None:
        return 0
    workers = state.fleet.workers
    holders = state.fleet.holders(largest, Tier.VRAM)
    return sum(model.sizes.keys() <= workers[each].planned.keys() for each in holders)


def reserved(state: State, model: ModelId) -> tuple[WorkerId, ...]:
    """The workers that serve this endpoint alone."""
    return tuple(
        worker.worker_id for worker in state.fleet.workers.values() if worker.dedicated_to == model
    )
