"""`quickthaw endpoint ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from quickthaw.client import ModelEndpoint

app = typer.Typer()
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Catalog id or alias.")]


@session_default(app)
def endpoint(session: Session) -> None:
    """How models are served: list, show, set, release. Without a command: list."""
    list_endpoints(session)


@session_command(app, "list")
def list_endpoints(session: Session) -> None:
    """Every model with who may call it, its copies, and whether it is quarantined."""
    with session.client() as client:
        found = list(client.endpoints.list())

    def render(console: Console) -> None:
        from quickthaw.cli.render import listing, literal, table

        rows = [
            (
                e.model,
                e.visibility,
                e.owner_tenant,
                e.replicas,
                f"{e.min_replicas} to {e.max_replicas or 'any'}",
                literal(e.quarantine.reason) if e.quarantine else "",
            )
            for e in found
        ]
        headings = ("model", "visibility", "owner", "copies", "wanted", "quarantined")
        listing(console, table(headings, rows, "copies"), "no models yet")

    session.out.show(found, render)


@session_command(app, "show")
def show(session: Session, model: ModelArgument) -> None:
    """One endpoint: its settings, its copies, the workers that it has for itself."""
    with session.client() as client:
        found = client.endpoints.get(model)
    session.out.show(found, lambda console: _render(console, found))


@session_command(app, "set")
def set_(
    session: Session,
    model: ModelArgument,
    settings: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="Settings; the others stay as they are."),
    ],
) -> None:
    """Change how a model is served. Needs an admin key.

    visibility=shared|private|dedicated, owner_tenant, min_replicas, max_replicas, buffer,
    scale_up_delay, scale_down_delay, keep_alive (times such as 30s, 5m, 2h; 0 for the default),
    concurrency_max, reserved_workers, worker_labels (such as gpu=h100,zone=b).

    ```
    quickthaw endpoint set me/my-model min_replicas=1 keep_alive=10m
    quickthaw endpoint set me/my-model visibility=private owner_tenant=acme
    quickthaw endpoint set me/my-model visibility=dedicated owner_tenant=acme reserved_workers=2
    ```
    """
    from quickthaw.cli.endpoint_values import read_settings

    wanted, names = read_settings(model, settings)
    with session.client() as client:
        changed = client.endpoints.set(model, wanted, names)
    session.out.show(changed, lambda console: _render(console, changed))


@session_command(app, "release")
def release(session: Session, model: ModelArgument) -> None:
    """Let a quarantined model run again. Needs an admin key."""
    with session.client() as client:
        found = client.endpoints.release(model)
    session.out.show(found, lambda console: console.print(f"{found.model} may run again"))


def _render(console: Console, found: ModelEndpoint) -> None:
    from quickthaw.cli.render import clock, literal, pairs, span

    lines: Sequence[tuple[str, str]] = (
        ("model", found.model),
        ("visibility", found.visibility),
        ("owner", found.owner_tenant),
        ("copies now", str(found.replicas)),
        ("min_replicas", str(found.min_replicas)),
        ("max_replicas", str(found.max_replicas or "no limit")),
        ("buffer", str(found.buffer)),
        ("scale_up_delay", span(found.scale_up_delay_ms)),
        (
            "scale_down_delay",
            span(found.scale_down_delay_ms) if found.scale_down_delay_ms else "the scheduler's",
        ),
        ("keep_alive", span(found.keep_alive_ms) if found.keep_alive_ms else "learned"),
        ("concurrency_max", str(found.concurrency_max or "no limit")),
    )
    if found.reserved_workers:
        labels = ", ".join(f"{name}={value}" for name, value in found.worker_labels.items())
        reserved = ", ".join(found.reserved_worker_ids) or "none yet"
        lines = (
            *lines,
            ("reserved_workers", f"{found.reserved_workers}: {reserved}"),
            ("worker_labels", literal(labels)),
        )
    if found.quarantine is not None:
        since = clock(found.quarantine.since_unix_ms)
        lines = (*lines, ("quarantined", f"since {since}: {literal(found.quarantine.reason)}"))
    pairs(console, lines)
