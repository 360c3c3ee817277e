"""`quickthaw deployments ...`: what was uploaded to be deployed, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Deployment

app = typer.Typer()
DeploymentArgument = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its id, `dep_...`.")]


@session_default(app)
def deployments(session: Session) -> None:
    """Your deployments by HTTP: list, show, cancel. Without a command: the newest 20."""
    list_deployments(session)


@session_command(app, "list")
def list_deployments(
    session: Session,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", help="Only these: waiting, packing, testing, ready, failed, cancelled."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, newest first.")] = 20,
) -> None:
    """Your tenant's deployments, the newest first. Needs a key with the scope `deploy`.

    ```
    quickthaw deployments list --state failed
    ```
    """
    from quickthaw.cli.words import read_words
    from quickthaw.client import DeploymentState

    states = read_words("--state", state or (), DeploymentState)
    with session.client() as client:
        found = list(client.deployments.list(states=states, limit=limit))

    def render(console: Console) -> None:
        from quickthaw.cli.render import clock, listing, literal, table

        rows = [
            (
                each.deployment_id,
                literal(each.spec.model),
                str(each.state),
                _how_far(each),
                each.version or "",
                clock(each.created_unix_ms),
            )
            for each in found
        ]
        headings = ("deployment", "model", "state", "", "version", "asked for")
        listing(console, table(headings, rows, "version"), "no deployments")

    session.out.show(found, render)


@session_command(app, "show")
def show(session: Session, deployment: DeploymentArgument) -> None:
    """One deployment: its files, how far it is, why it failed."""
    with session.client() as client:
        found = client.deployments.get(deployment)
    session.out.show(found, lambda console: _render(console, found))


@session_command(app, "cancel")
def cancel(session: Session, deployment: DeploymentArgument) -> None:
    """End a deployment that has not ended. Nothing of it stays."""
    with session.client() as client:
        after = client.deployments.cancel(deployment)
    session.out.show(
        after, lambda console: console.print(f"{after.deployment_id} is {after.state}")
    )


def _how_far(deployment: Deployment) -> str:
    from quickthaw.cli.render import literal

    if deployment.failure is not None:
        message = " ".join(deployment.failure.message.split())
        return literal(message if len(message) <= 80 else f"{message[:79]}…")
    if not deployment.total_bytes:
        return literal(deployment.step)
    return literal(f"{deployment.step} {deployment.done_bytes / deployment.total_bytes:.0%}")


def _render(console: Console, deployment: Deployment) -> None:
    from quickthaw.cli.render import clock, literal, size

    spec = deployment.spec
    console.print(f"{deployment.deployment_id}: {literal(spec.model)}, {deployment.state}")
    if spec.base:
        console.print(f"base:     {literal(spec.base)}", soft_wrap=True)
    for each in spec.files:
        console.print(f"file:     {literal(each.path)}, {size(each.size_bytes)}", soft_wrap=True)
    console.print(f"asked:    {clock(deployment.created_unix_ms)}")
    console.print(f"tries:    {deployment.attempts}")
    if deployment.finished_unix_ms:
        console.print(f"ended:    {clock(deployment.finished_unix_ms)}")
    elif deployment.step:
        console.print(f"now:      {_how_far(deployment)}", soft_wrap=True)
    if deployment.version:
        console.print(f"version:  {deployment.version}")
    if deployment.self_test_request_id:
        console.print(f"drew in:  {deployment.self_test_request_id}")
    if (failure := deployment.failure) is not None:
        console.print(f"failed:   {failure.reason}: {literal(failure.message)}", soft_wrap=True)
