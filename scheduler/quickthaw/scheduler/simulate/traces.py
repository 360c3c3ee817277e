"""Traffic: who asks for which model when, and how much work that is.

Every trace is a function of a `Random` and a `Traffic`, so equal seeds give equal requests to every
policy. Popularity is Zipf over thousands of models, as on all platforms that published theirs.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from quickthaw.scheduler.core.model import Component, Digest, ModelId, ModelSpec

GIB = 1 << 30


class Arrival(NamedTuple):
    """One request. `run_seconds` is its true run time on the reference GPU, which no policy is
    told; `work_units` is what the scheduler can read from the input. `priority` is as on the wire,
    `deadline_seconds` from the arrival on; 0 for none."""

    at_seconds: float
    tenant: str
    model: int
    work_units: float
    run_seconds: float
    priority: int = 2
    deadline_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What all traces have in common; `rate` is requests a second, on average."""

    models: int
    tenants: int
    requests: int
    rate: float
    zipf: float = 1.0
    unit_seconds: float = 0.1
    """Of one work unit on the reference GPU; models differ by up to a factor of three."""
    mean_units: float = 20.0


def catalog(random: Random, count: int) -> list[ModelSpec]:
    """Models of the sizes that people run: most are fine-tunes that share their text encoder and
    VAE with others of their family, 3 to 24 GiB each."""
    bases = ((3, 1, 4), (5, 2, 7), (10, 4, 17), (18, 5, 24))  # denoiser, text, working: GiB, rough
    families = []
    for number in range(max(4, count // 50)):
        denoiser, text, _ = bases[number % len(bases)]
        shared = (
            Component(Digest(f"text-{number}"), text * GIB // 2),
            Component(Digest(f"vae-{number}"), GIB // 5),
        )
        families.append((denoiser, shared))
    models = []
    for number in range(count):
        gib, shared = random.choice(families)
        own_bytes = int(gib * GIB * random.uniform(0.8, 1.2))
        own = Component(Digest(f"denoiser-{number}"), own_bytes)
        identity = ModelId(f"sim/{number}")
        models.append(ModelSpec(identity, "sim", f"s{number}", "", (*shared, own), 2 * GIB))
    return models


class _Draw:
    """What each request is like; the arrival times are the trace's own."""

    def __init__(self, random: Random, traffic: Traffic) -> None:
        self._random = random
        self._traffic = traffic
        self._models = _zipf(traffic.models, traffic.zipf)
        self._tenants = _zipf(traffic.tenants, 1.0)
        self._pace = [random.uniform(0.6, 1.8) for _ in range(traffic.models)]

    def arrival(
        self, at_seconds: float, model: int | None = None, units: float | None = None
    ) -> Arrival:
        random, traffic = self._random, self._traffic
        if model is None:
            model = bisect_left(self._models, random.random() * self._models[-1])
        tenant = bisect_left(self._tenants, random.random() * self._tenants[-1])
        if units is None:
            units = traffic.mean_units * random.choice((0.4, 0.8, 1.0, 1.4))
        seconds = units * traffic.unit_seconds * self._pace[model]
        return Arrival(at_seconds, f"tenant-{tenant}", model, units, seconds)


def _zipf(count: int, exponent: float) -> list[float]:
    """Cumulative weights."""
    return list(itertools.accumulate(1.0 / rank**exponent for rank in range(1, count + 1)))


def steady(random: Random, traffic: Traffic) -> Iterator[Arrival]:
    """Poisson arrivals at one rate."""
    draw, now = _Draw(random, traffic), 0.0
    for _ in range(traffic.requests):
        now += random.expovariate(traffic.rate)
        yield draw.arrival(now)


def diurnal(random: Random, traffic: Traffic) -> Iterator[Arrival]:
    """A day's wave, from a fifth to nine fifths of the mean rate; four waves in the trace."""
    draw, now = _Draw(random, traffic), 0.0
    period = traffic.requests / traffic.rate / 4
    for _ in range(traffic.requests):
        rate = traffic.rate * (1.0 + 0.8 * math.sin(2 * math.pi * now / period))
        now += random.expovariate(rate)
        yield draw.arrival(now)


def flash(random: Random, traffic: Traffic) -> Iterator[Arrival]:
    """Steady, but every two minutes some unpopular model suddenly takes a third of all requests,
    for half a minute."""
    draw, now = _Draw(random, traffic), 0.0
    crowd, began = 0, -math.inf
    for _ in range(traffic.requests):
        now += random.expovariate(traffic.rate)
        if now - began > 120.0:
            crowd, began = random.randrange(traffic.models // 2, traffic.models), now
        crowded = now - began < 30.0 and random.random() < 1 / 3
        yield draw.arrival(now, crowd if crowded else None)


def heavy_tailed(random: Random, traffic: Traffic) -> Iterator[Arrival]:
    """Work is log-normal with the same mean: a few videos among many small pictures."""
    draw, now = _Draw(random, traffic), 0.0
    sigma = 1.5
    mu = math.log(traffic.mean_units * 0.9) - sigma**2 / 2
    for _ in range(traffic.requests):
        now += random.expovariate(traffic.rate)
        yield draw.arrival(now, units=min(random.lognormvariate(mu, sigma), 3_000.0))


def surprising(random: Random, traffic: Traffic) -> Iterator[Arrival]:
    """As heavy-tailed, but nothing in the request tells how long it will run."""
    for arrival in heavy_tailed(random, traffic):
        yield arrival._replace(work_units=traffic.mean_units)


Trace = Callable[[Random, Traffic], Iterator[Arrival]]

TRACES: Mapping[str, Trace] = {
    "steady": steady,
    "diurnal": diurnal,
    "flash": flash,
    "heavy": heavy_tailed,
    "surprising": surprising,
}
