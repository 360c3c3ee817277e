"""The cold-start benchmark: makes or opens a model, measures every loader, and writes it down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.choosing import Choice, choose
from quickthaw.cli.bench.loopback import FOLDER, STORE, serving
from quickthaw.cli.bench.measuring import Measured, OnStep, Plan, measure
from quickthaw.cli.bench.options import Options
from quickthaw.cli.bench.peers.base import Peer, version
from quickthaw.cli.bench.recording import document
from quickthaw.cli.bench.rows import From, Row, rows_for
from quickthaw.cli.bench.subject import Subject, open_subject
from quickthaw.cli.bench.summary import SCHEMA_VERSION, summarise
from quickthaw.cli.bench.targets import targets
from quickthaw.cli.bench.workspace import workspace
from quickthaw.snapshot import SnapshotStore
from quickthaw.wire.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Watch:
    """How a run tells what it is about to do, and what it is doing."""

    say: Callable[[str], None]
    making: Callable[[int, int], None]
    """Bytes of the model written, and how many there will be."""
    step: OnStep


def run(options: Options, watch: Watch) -> dict[str, Any]:
    """Measures and returns the document. Raises `FailedPrecondition` for what cannot be measured.

    Peers that are absent or fail are in the document; `succeeded` says whether none failed.
    """
    began = time.perf_counter()
    _check_device(options.device)
    choice = choose(options)
    for line in choice.words:
        watch.say(line)
    with workspace(options.folder, choice.key, keep=options.keep) as place:
        subject = _subject(options, choice, place, watch)
        peers, absent = _present(options, subject)
        rows = rows_for(options.starts, peers, options.device)
        with _server(subject, options.starts) as url:
            plan = Plan(
                subject=subject,
                device=options.device,
                rows=tuple(rows),
                peers={peer.name: peer for peer in peers},
                rounds=options.rounds,
                readers=options.readers,
                torch_threads=options.torch_threads,
                seed=options.seed,
                logs=place,
                url=url,
                limit_seconds=_left(options.limit_seconds, time.perf_counter() - began),
            )
            measured = measure(plan, watch.step)
        return _document(options, choice, plan, measured, absent)


def _left(limit_seconds: float | None, gone: float) -> float | None:
    return None if limit_seconds is None else limit_seconds - gone


def _server(subject: Subject, starts: Sequence[From]) -> AbstractContextManager[str]:
    """The URL of a web server with the model, if a tier needs one."""
    if From.REMOTE not in starts:
        return nullcontext("")
    return serving({STORE: subject.store, FOLDER: subject.folder})


def succeeded(written: dict[str, Any]) -> bool:
    return not written["results"]["failed"]


def _check_device(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise FailedPrecondition(
                f"torch {torch.__version__} sees no CUDA device; install a build with CUDA, or "
                "measure with --device cpu"
            )


def _subject(options: Options, choice: Choice, place: Path, watch: Watch) -> Subject:
    store = choice.store or SnapshotStore(place / "store")
    digest = choice.digest or next(iter(store), None)
    if digest is None:
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            watch.making(done, choice.nbytes)

        digest = choice.make(store, on_bytes)
    watch.say("reading the model once, to know what every loader must give")
    return open_subject(store, digest, place, name=choice.name, title=choice.title)


def _present(options: Options, subject: Subject) -> tuple[list[Peer], list[dict[str, str]]]:
    present: list[Peer] = []
    absent: list[dict[str, str]] = []
    for peer in options.peers:
        if (reason := peer.refusal(subject, options.device)) is None:
            present.append(peer)
        else:
            absent.append({"name": peer.name, "title": peer.title, "reason": reason})
    return present, absent


def _document(
    options: Options,
    choice: Choice,
    plan: Plan,
    measured: Measured,
    absent: Sequence[dict[str, str]],
) -> dict[str, Any]:
    lines = summarise(plan.rows, measured, plan.subject.nbytes)
    goals = targets(
        lines,
        device=options.device,
        model=choice.name,
        full_size=choice.scale == 1.0,
        tensors=plan.subject.tensors,
    )
    titles = {row.lane: _lane_title(row) for row in plan.rows}
    results = {
        "rows": lines,
        "absent": list(absent),
        "failed": [
            {"name": lane, "title": titles[lane], "reason": reason}
            for lane, reason in measured.failed.items()
        ],
        "targets": [{**asdict(goal), "met": goal.met} for goal in goals],
    }
    return document(
        options.name, options.command, _parameters(options, choice, plan, measured), results
    )


def _lane_title(row: Row) -> str:
    return "floors" if row.is_floor else row.title.removesuffix(", unverified")


def _parameters(
    options: Options, choice: Choice, plan: Plan, measured: Measured
) -> dict[str, object]:
    subject = plan.subject
    return {
        "schema_version": SCHEMA_VERSION,
        "title": choice.title,
        "model": choice.name,
        "scale": choice.scale,
        "digest": subject.digest,
        "bytes": subject.nbytes,
        "tensors": subject.tensors,
        "components": {name: path.stat().st_size for name, path in subject.files.items()},
        "device": options.device,
        "gpu": _gpu_name(options.device),
        "rounds": measured.rounds,
        "readers": options.readers,
        "torch_threads": options.torch_threads,
        "seed": options.seed,
        "filesystem": _filesystem(options.folder),
        "huge_pages": _huge_pages(),
        "versions": _versions(plan),
        "seconds": round(measured.seconds, 1),
    }


def _gpu_name(device: str) -> str | None:
    if device != "cuda":
        return None
    import torch

    name: str = torch.cuda.get_device_name()
    return name


def _versions(plan: Plan) -> dict[str, str]:
    names = {"torch", "safetensors", *(peer.distribution for peer in plan.peers.values())}
    found = {name: version(name) for name in sorted(names)}
    return {name: value for name, value in found.items() if value is not None}


def _filesystem(folder: Path) -> str:
    """The type of the one that the files are on."""
    place = os.path.realpath(folder)
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def _huge_pages() -> str:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0]
