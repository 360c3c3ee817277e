"""Which other workers could hand a worker the components that it lacks."""

from __future__ import annotations

from itertools import islice

from quickthaw.scheduler.core.commands import Peers
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.model import ModelSpec, Tier, WorkerId, WorkerSpec
from quickthaw.scheduler.core.worker import LOWER_TIERS, Worker

PEERS_MAX = 3
"""Named for one component: a worker that meets three dead peers is better off at the origin."""
LOOK_AT_MAX = 16
"""Holders looked at in each tier, so that a popular component costs no more than a rare one."""


def whereabouts(fleet: Fleet, worker: Worker, model: ModelSpec) -> tuple[Peers, ...]:
    """For each component that `worker` has in no tier, at most `PEERS_MAX` that let others read.

    Memory comes before disk; among equals, who holds fewest attempts, and then who was given one
    the longest time ago.
    """
    vram = worker.resident[Tier.VRAM]
    found: list[Peers] = []
    for digest in model.sizes:
        if digest in vram or worker.tier_below(digest) is not Tier.REMOTE:
            continue
        peers: dict[WorkerId, WorkerSpec] = {}
        for tier in LOWER_TIERS:
            near = islice(fleet.holders(digest, tier), LOOK_AT_MAX)
            able = [fleet.workers[each] for each in near if each != worker.worker_id]
            able = [each for each in able if each.spec.peer_url and each.connected]
            for each in sorted(able, key=lambda peer: len(peer.held)):
                peers.setdefault(each.worker_id, each.spec)
        if peers:
            best = list(peers.values())[:PEERS_MAX]
            places = tuple((spec.peer_url, spec.peer_token) for spec in best)
            found.append(Peers(digest, places))
    return tuple(found)
