"""A log of requests for the simulator: what it tells, and what it leaves out.

Its format is that of `quickthaw.scheduler.simulate.requestlog`: a line each for the log itself, for
every type of GPU, every model and every request. A test reads it back.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.output import Output, stderr

if TYPE_CHECKING:
    from quickthaw.client import Client, TrafficEntry, Worker

VERSION = 1
_PRIORITIES = {"low": 1, "normal": 2, "high": 3}
_DAY_MS = 86_400_000
DIGEST_CHARS = 12
"""Enough to tell components apart, and to say nothing of what they are."""

Line = Mapping[str, object]


def log_lines(client: Client, days: float, limit: int) -> Iterator[Line]:
    """Tenants are numbered in the order in which they first appear."""
    now_ms = time.time_ns() // 1_000_000
    yield {"kind": "log", "version": VERSION, "written_unix_ms": now_ms}
    yield from _gpus(client.workers.list())
    for model in client.models.list():
        yield {
            "kind": "model",
            "model": model.id,
            "working_bytes": model.working_bytes,
            "components": [
                {"digest": part.digest[:DIGEST_CHARS], "size_bytes": part.size_bytes}
                for part in model.components
            ],
        }
    tenants: dict[str, str] = {}
    from_ms = max(0, now_ms - round(days * _DAY_MS)) if days else 0
    for entry in islice(client.traffic(from_unix_ms=from_ms), limit):
        yield _request(entry, tenants.setdefault(entry.tenant, f"t{len(tenants) + 1}"))


def write_log(lines: Iterable[Line], output: Path | None, out: Output) -> None:
    """To the file, whole or not at all, or to stdout."""
    if output is None:
        for line in lines:
            out.line(line)
        return
    if not output.parent.is_dir():
        raise UsageFault(f"--output {output}: there is no folder {output.parent}")
    partial = output.with_name(f"{output.name}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += line["kind"] == "request"
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    if out.as_json:
        out.line({"requests": count, "file": str(output)})
    else:
        requests = "1 request" if count == 1 else f"{count} requests"
        stderr().print(f"{requests} written to {output}", markup=False)
        sys.stderr.flush()


def _gpus(workers: Iterable[Worker]) -> Iterator[Line]:
    by_type: defaultdict[str, list[Worker]] = defaultdict(list)
    for worker in workers:
        by_type[worker.gpu_type].append(worker)
    for gpu_type, alike in sorted(by_type.items()):
        yield {
            "kind": "gpu",
            "gpu_type": gpu_type,
            "workers": len(alike),
            "vram_bytes": min(each.vram_bytes for each in alike),
            "pinned_bytes": min(each.pinned_bytes for each in alike),
            "rate_nanodollars_per_second": alike[0].rate_nanodollars_per_second,
        }


def _request(entry: TrafficEntry, tenant: str) -> Line:
    deadline_ms = entry.deadline_unix_ms - entry.submitted_unix_ms if entry.deadline_unix_ms else 0
    return {
        "kind": "request",
        "model": entry.model,
        "tenant": tenant,
        "submitted_unix_ms": entry.submitted_unix_ms,
        "work_units": entry.work_units,
        "priority": _PRIORITIES.get(entry.priority, 2),
        "deadline_ms": max(0, deadline_ms),
        "state": entry.state,
        "attempts": entry.attempts,
        "receipt": {
            "gpu_type": entry.gpu_type,
            "start_tier": entry.start_tier,
            "queue_ms": entry.queue_ms,
            "load_ms": entry.load_ms,
            "run_ms": entry.run_ms,
            "rate_nanodollars_per_second": entry.rate_nanodollars_per_second,
        },
    }
