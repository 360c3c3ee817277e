"""Recorded requests of one's own installation: what `quickthaw requests export` wrote, read back.

A log is JSON lines, each with a `kind`: `log` first (the format's version), then `gpu` (a type of
worker that was attached), `model` (its components' sizes) and `request`. It has neither inputs nor
outputs nor names of tenants. Lines of other kinds are passed over, so that newer logs can be read.
Output of `quickthaw requests list --json` is read too; models then have made-up sizes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from quickthaw.scheduler.core.model import Component, Digest, ModelId, ModelSpec, Tier
from quickthaw.scheduler.simulate.fields import Fields
from quickthaw.wire.errors import SettingsInvalid

VERSION = 1


class LoggedGpu(NamedTuple):
    """Workers of one type, as they were attached when the log was written."""

    gpu_type: str
    workers: int
    vram_bytes: int
    pinned_bytes: int
    rate_nanodollars_per_second: int


class LoggedRequest(NamedTuple):
    """One request that ran. Times in seconds, `at_seconds` since the epoch."""

    at_seconds: float
    model: str
    tenant: str
    work_units: float
    priority: int
    deadline_seconds: float
    gpu_type: str
    start_tier: Tier | None
    load_seconds: float
    run_seconds: float
    rate_nanodollars_per_second: int


@dataclass(frozen=True, slots=True)
class RequestLog:
    requests: list[LoggedRequest]
    gpus: list[LoggedGpu] = field(default_factory=list)
    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    never_ran: int = 0
    """Requests that are not replayed because nothing is known of how long they would have run."""


def read_log(path: Path) -> RequestLog:
    """Raises SettingsInvalid, naming the file, the line and what is wrong with it."""
    requests: list[LoggedRequest] = []
    gpus: list[LoggedGpu] = []
    models: dict[str, ModelSpec] = {}
    never_ran = 0
    for place, row in _rows(path):
        try:
            match row.text("kind", "request"):
                case "log":
                    _check_version(path, row)
                case "gpu":
                    gpus.append(_gpu(row))
                case "model":
                    model = _model(row)
                    models[model.id] = model
                case "request":
                    request = _request(row)
                    if request.run_seconds > 0:
                        requests.append(request)
                    else:
                        never_ran += 1
                case _:
                    continue
        except ValueError as error:
            raise SettingsInvalid(
                f"{path}, line {place}: {error}; `quickthaw requests export` writes logs that "
                "can be read"
            ) from error
    if not requests:
        raise SettingsInvalid(f"{path} holds no request that ran")
    requests.sort()
    return RequestLog(requests, gpus, models, never_ran)


def _rows(path: Path) -> Iterator[tuple[int, Fields]]:
    try:
        text = path.read_text(encoding="utf-8")
        whole = json.loads(text) if text.lstrip().startswith("[") else None
        lines = whole if isinstance(whole, list) else text.splitlines()
        for place, line in enumerate(lines, 1):
            row = json.loads(line) if isinstance(line, str) else line
            if not isinstance(row, dict):
                raise SettingsInvalid(f"{path}, line {place} is no JSON object")
            yield place, Fields(row)
    except OSError as error:
        raise SettingsInvalid(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsInvalid(f"{path} is neither JSON lines nor a JSON array: {error}") from error


def _check_version(path: Path, row: Fields) -> None:
    if (version := row.number("version")) > VERSION:
        raise SettingsInvalid(
            f"{path} is a log of version {version:g}, this release reads up to {VERSION}"
        )


def _gpu(row: Fields) -> LoggedGpu:
    return LoggedGpu(
        row.text("gpu_type"),
        int(row.number("workers")),
        int(row.number("vram_bytes")),
        int(row.number("pinned_bytes")),
        int(row.number("rate_nanodollars_per_second")),
    )


def _model(row: Fields) -> ModelSpec:
    components = tuple(
        Component(Digest(part.text("digest")), int(part.number("size_bytes")))
        for part in row.objects("components")
    )
    name = row.text("model")
    working_bytes = int(row.number("working_bytes"))
    return ModelSpec(ModelId(name), "", f"logged {name}", "", components, working_bytes)


def _request(row: Fields) -> LoggedRequest:
    receipt = row.object("receipt")
    tier = receipt.text("start_tier", "").upper()
    return LoggedRequest(
        at_seconds=row.number("submitted_unix_ms") / 1000,
        model=row.text("model"),
        tenant=row.text("tenant", "t1"),
        work_units=max(1e-6, row.number("work_units", 1.0)),
        priority=int(row.number("priority", 2)) if row.is_number("priority") else 2,
        deadline_seconds=row.number("deadline_ms", 0.0) / 1000,
        gpu_type=receipt.text("gpu_type", ""),
        start_tier=Tier[tier] if tier in Tier.__members__ else None,
        load_seconds=receipt.number("load_ms", 0.0) / 1000,
        run_seconds=receipt.number("run_ms", 0.0) / 1000,
        rate_nanodollars_per_second=int(receipt.number("rate_nanodollars_per_second", 0.0)),
    )
