"""`quickthaw workers ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import EstimateCheck, Worker

app = typer.Typer()
WorkerArgument = Annotated[str, typer.Argument(metavar="WORKER", help="A worker's id.")]


@session_default(app)
def workers(session: Session) -> None:
    """The workers: list, drain, cordon, uncordon. Without a command: list. Needs an admin key."""
    list_workers(session)


@session_command(app, "list")
def list_workers(session: Session) -> None:
    """Every worker with its state, memory, models in VRAM and running requests."""
    with session.client() as client:
        status = client.workers.status()
    found = status.workers

    def render(console: Console) -> None:
        from quickthaw.cli.render import listing, money, size, table

        rows = [
            (
                w.worker_id,
                w.gpu_type,
                _state(w),
                f"{size(w.vram_used_bytes)} of {size(w.vram_bytes)}",
                f"{size(w.pinned_used_bytes)} of {size(w.pinned_bytes)}",
                len(w.attempts),
                f"{money(w.rate_nanodollars_per_second)}/s",
                ", ".join(w.resident_models),
            )
            for w in found
        ]
        headings = ("worker", "gpu", "state", "vram", "pinned", "busy", "rate", "models in vram")
        listing(console, table(headings, rows, "vram pinned busy rate"), "no worker is attached")
        for check in status.estimate_checks:
            if check.tested:
                console.print(_checked(check))

    session.out.show(found, render)


def _checked(check: EstimateCheck) -> str:
    within_p50, within_p95 = check.within_p50 / check.tested, check.within_p95 / check.tested
    return (
        f"estimates of {check.tested} {check.kind}s: {within_p50:.0%} took no longer than the p50, "
        f"{within_p95:.0%} no longer than the p95"
    )


def _state(worker: Worker) -> str:
    """With what an operator should know about it."""
    told = [str(worker.state)]
    if worker.recent_deaths:
        told.append(f"died {worker.recent_deaths} times")
    if worker.dedicated_to:
        told.append(f"only {worker.dedicated_to}")
    return ", ".join(told)


def _show(session: Session, worker: Worker) -> None:
    session.out.show(worker, lambda console: console.print(f"{worker.worker_id} is {worker.state}"))


@session_command(app, "drain")
def drain(
    session: Session,
    worker: WorkerArgument,
    stop: Annotated[
        bool, typer.Option("--stop", help="End the process when nothing runs on it any more.")
    ] = False,
) -> None:
    """No new requests; what runs on it ends.

    ```
    quickthaw workers drain gpu-box-0 --stop
    ```
    """
    with session.client() as client:
        _show(session, client.workers.drain(worker, stop=stop))


@session_command(app, "cordon")
def cordon(session: Session, worker: WorkerArgument) -> None:
    """No new requests until `uncordon`; nothing is stopped."""
    with session.client() as client:
        _show(session, client.workers.cordon(worker))


@session_command(app, "uncordon")
def uncordon(session: Session, worker: WorkerArgument) -> None:
    """Take requests again."""
    with session.client() as client:
        _show(session, client.workers.uncordon(worker))
