"""What is set apart: versions of models that may not run, workers that run one endpoint alone."""

from __future__ import annotations

from dataclasses import dataclass

from quickthaw.scheduler.core.model import ModelId, TenantId


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A version of a model that takes no requests, until it is released or another one comes."""

    model: ModelId
    snapshot_digest: str
    reason: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A worker that serves one dedicated endpoint alone: its open span.

    Owner, rate and price version are fixed when it opens.
    """

    model: ModelId
    owner: TenantId
    gpu_type: str
    rate_nanodollars_per_second: int
    price_version: str
    from_ms: int
