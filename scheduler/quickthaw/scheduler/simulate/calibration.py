"""Worker models from measurements: one's own request log, and cold starts that were timed.

Each number of a `GpuKind` is either assumed (of the size that vendors state) or measured; `Fleet`
says of each which it is and where it comes from, so that a result can be judged.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from quickthaw.scheduler.core.model import Tier, TierSpeed
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.simulate.fields import Fields
from quickthaw.scheduler.simulate.kinds import ASSUMED, GpuKind
from quickthaw.scheduler.simulate.requestlog import LoggedGpu, RequestLog
from quickthaw.wire.errors import SettingsInvalid

SAMPLES_MIN = 5
"""Fewer observations than this are no measurement."""
ASSUMPTION = "assumed"
_UNKNOWN = ASSUMED["l40s"]
"""What is taken for a GPU type that nothing is known of."""
_ROWS = {Tier.PINNED: "pinned", Tier.DISK: "disk", Tier.REMOTE: "remote"}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Kinds by GPU type. `sources` says where a number comes from: keys are (type, what)."""

    kinds: Mapping[str, GpuKind]
    sources: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def source(self, gpu_type: str, what: str) -> str:
        return self.sources.get((gpu_type, what), ASSUMPTION)

    def _with(self, kind: GpuKind, what: str, source: str) -> Fleet:
        kinds = {**self.kinds, kind.gpu_type: kind}
        return Fleet(kinds, {**self.sources, (kind.gpu_type, what): source})

    # ---- prices ------------------------------------------------------------------------------

    def priced(self, table: PriceTable, source: str) -> Fleet:
        """With the table's rates for the types that it names."""
        fleet = self
        for gpu_type, rate in table.rates.items():
            if (kind := self.kinds.get(gpu_type)) is not None:
                dearer = replace(kind, rate_nanodollars_per_second=rate)
                fleet = fleet._with(dearer, "price", source)
        return fleet

    # ---- one's own log -----------------------------------------------------------------------

    def logged(self, log: RequestLog, name: str) -> Fleet:
        """With what a request log tells: types and prices of workers, and how fast they ran and
        loaded, for what was seen at least `SAMPLES_MIN` times."""
        fleet = self
        for gpu in log.gpus:
            fleet = fleet._like(gpu, name)
        types = {each.gpu_type for each in log.requests if each.gpu_type}
        for gpu_type in sorted(types - fleet.kinds.keys()):
            rate = next(e.rate_nanodollars_per_second for e in log.requests if e.gpu_type)
            fleet = fleet._like(LoggedGpu(gpu_type, 0, 0, 0, rate), name)
        return fleet._speeds(log, name)._tiers(log, name)

    def _like(self, gpu: LoggedGpu, name: str) -> Fleet:
        known = self.kinds.get(gpu.gpu_type, replace(_UNKNOWN, gpu_type=gpu.gpu_type))
        kind = replace(
            known,
            vram_bytes=gpu.vram_bytes or known.vram_bytes,
            pinned_bytes=gpu.pinned_bytes or known.pinned_bytes,
            rate_nanodollars_per_second=gpu.rate_nanodollars_per_second
            or known.rate_nanodollars_per_second,
        )
        fleet = self
        for what, told in (("memory", gpu.vram_bytes), ("price", gpu.rate_nanodollars_per_second)):
            if told:
                fleet = fleet._with(kind, what, name)
        return replace(fleet, kinds={**fleet.kinds, gpu.gpu_type: kind})

    def _speeds(self, log: RequestLog, name: str) -> Fleet:
        """Run speeds of GPU types against each other, by the models that ran on both."""
        paces: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for each in log.requests:
            if each.gpu_type:
                paces[each.gpu_type][each.model].append(each.run_seconds / each.work_units)
        medians = {
            gpu_type: {
                model: statistics.median(seen)
                for model, seen in models.items()
                if len(seen) >= SAMPLES_MIN
            }
            for gpu_type, models in paces.items()
        }
        if not any(medians.values()):
            return self
        anchor = max(medians, key=lambda gpu_type: (len(medians[gpu_type]), gpu_type))
        anchor_speed = self.kinds[anchor].speed
        fleet = self
        for gpu_type, models in sorted(medians.items()):
            both = models.keys() & medians[anchor].keys()
            if gpu_type != anchor and both:
                ratios = [medians[anchor][model] / models[model] for model in both]
                speed = anchor_speed * statistics.geometric_mean(ratios)
                source = f"{name}: {len(both)} models ran there and on {anchor}"
                fleet = fleet._with(replace(fleet.kinds[gpu_type], speed=speed), "speed", source)
        return fleet

    def _tiers(self, log: RequestLog, name: str) -> Fleet:
        """Bandwidths by the farthest tier of a load. Of a model that was there in part less was
        read than its size, so the median of them is an upper bound."""
        seen: defaultdict[tuple[str, Tier], list[float]] = defaultdict(list)
        for each in log.requests:
            model = log.models.get(each.model)
            if model is None or each.start_tier in (None, Tier.VRAM) or each.load_seconds <= 0:
                continue
            assert each.start_tier is not None
            rate = model.weight_bytes / each.load_seconds
            seen[each.gpu_type, each.start_tier].append(rate)
        fleet = self
        for (gpu_type, tier), rates in sorted(seen.items()):
            if len(rates) >= SAMPLES_MIN and gpu_type in fleet.kinds:
                speed = TierSpeed(statistics.median(rates), 0.0)
                source = f"{name}: {len(rates)} loads"
                fleet = fleet._loads(gpu_type, {tier: speed}, source)
        return fleet

    def _loads(self, gpu_type: str, speeds: Mapping[Tier, TierSpeed], source: str) -> Fleet:
        fleet = self
        for tier, speed in speeds.items():
            kind = fleet.kinds[gpu_type]
            kind = replace(kind, tiers={**kind.tiers, tier: speed})
            fleet = fleet._with(kind, tier.name.lower(), source)
        return fleet

    # ---- timed cold starts -------------------------------------------------------------------

    def cold_started(self, path: Path, gpu_types: Sequence[str]) -> Fleet:
        """With the load speeds of a `quickthaw bench cold-start` for these GPU types; for the one
        whose name the file's GPU has, if none is given. Raises SettingsInvalid."""
        try:
            speeds, device = _cold_starts(Fields(json.loads(path.read_text(encoding="utf-8"))))
        except OSError as error:
            raise SettingsInvalid(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise SettingsInvalid(f"{path} is no result of `bench cold-start`: {error}") from error
        chosen = list(gpu_types) or _named(device, self.kinds)
        if not chosen:
            raise SettingsInvalid(
                f"{path} was measured on {device!r}, which is none of {', '.join(self.kinds)}; "
                "say which workers load like that: FILE=TYPE[,TYPE]"
            )
        if unknown := [each for each in chosen if each not in self.kinds]:
            raise SettingsInvalid(
                f"{path}={unknown[0]}: there is no such GPU here; known: {', '.join(self.kinds)}"
            )
        fleet = self
        for gpu_type in chosen:
            fleet = fleet._loads(gpu_type, speeds, f"{path.name}, on {device}")
        return fleet


def assumed() -> Fleet:
    return Fleet(ASSUMED)


def _named(device: str, gpu_types: Iterable[str]) -> list[str]:
    """`NVIDIA H100 80GB HBM3` is an `h100`."""
    flat = device.lower().replace(" ", "-")
    return [each for each in gpu_types if each in flat or each.partition("-")[0] in flat.split("-")]


def _cold_starts(document: Fields) -> tuple[dict[Tier, TierSpeed], str]:
    """What our own rows say of each tier: the phases that move no bytes are its latency."""
    parameters = document.object("parameters")
    size_bytes = parameters.number("bytes")
    rows = document.object("results").object("rows")
    speeds: dict[Tier, TierSpeed] = {}
    for tier, start in _ROWS.items():
        row = rows.object(f"quickthaw/{start}")
        seconds = row.object("seconds").number("p50", 0.0)
        if not seconds:
            continue
        phases = row.object("phases")
        fixed = sum(
            phases.number(phase, 0.0)
            for phase in ("manifest", "skeleton", "tokenizers", "bind", "pipeline")
        )
        moving = max(seconds - fixed, seconds / 100)
        speeds[tier] = TierSpeed(size_bytes / moving, fixed)
    if not speeds:
        raise ValueError("it has no row of Quickthaw's own")
    gpu = parameters.text("gpu", "") if parameters.has("gpu") else ""
    return speeds, gpu or parameters.text("device", "cpu")
