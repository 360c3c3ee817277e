"""`quickthaw requests ...` and `quickthaw explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Client, Webhook

app = typer.Typer()
explain_app = typer.Typer()
RequestArgument = Annotated[str, typer.Argument(metavar="REQUEST", help="A request's id.")]


@session_default(app)
def requests(session: Session) -> None:
    """Your requests: list, show, save, watch, cancel, export. Without a command: the newest 20."""
    list_requests(session)


@session_command(app, "list")
def list_requests(
    session: Session,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="Only these: queued, running, succeeded, failed, ..."),
    ] = None,
    model: Annotated[str, typer.Option(help="Only of this model.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, newest first.")] = 20,
) -> None:
    """Requests, newest first.

    ```
    quickthaw requests list --state failed --limit 5
    ```
    """
    from quickthaw.cli.words import read_words
    from quickthaw.client import RequestState

    states = read_words("--state", state or (), RequestState)
    with session.client() as client:
        found = list(client.list(states=states, model=model, limit=limit))

    def render(console: Console) -> None:
        from quickthaw.cli.render import clock, listing, money, span, table
        from quickthaw.cli.render import state as styled

        rows = []
        for each in found:
            receipt = each.receipt
            run = span(receipt.run_ms) if receipt else ""
            price = money(receipt.price_nanodollars) if receipt else ""
            worker = receipt.worker_id if receipt else ""
            at = clock(each.submitted_unix_ms)
            rows.append((each.request_id, each.model, styled(each.state), at, run, price, worker))
        headings = ("request", "model", "state", "submitted", "run", "price", "worker")
        listing(console, table(headings, rows, "run price"), "no requests")

    session.out.show(found, render)


@session_command(app, "export")
def export(
    session: Session,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.", show_default=False),
    ] = None,
    days: Annotated[
        float, typer.Option(min=0.0, help="Only the newest; 0 for everything there is.")
    ] = 7.0,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="At most so many, the oldest first.")
    ] = 1_000_000,
) -> None:
    """Write a log of everybody's requests, for `quickthaw bench simulate --replay`.

    JSON lines: what was asked for when, how long it took where. No inputs, no outputs, no keys;
    tenants are numbered. Needs a key with the scope `admin`.

    ```
    quickthaw requests export --days 30 --output mine.jsonl
    quickthaw bench simulate --replay mine.jsonl --size --p99 20
    ```
    """
    from quickthaw.cli.exporting import log_lines, write_log

    with session.client() as client:
        write_log(log_lines(client, days, limit), output, session.out)


@session_command(app, "show")
def show(session: Session, request: RequestArgument) -> None:
    """One request: its input, state, files and receipt, and who was told of its end."""
    from quickthaw.cli import render
    from quickthaw.cli.output import plain

    with session.client() as client:
        found = client.get(request)
        told = _told(client, request)
    described = plain(found)
    if told is not None and isinstance(described, dict):
        described["webhook"] = plain(told)

    def show_all(console: Console) -> None:
        render.request(console, found)
        if told is not None:
            tries = f"{told.attempts} {'try' if told.attempts == 1 else 'tries'}"
            render.pairs(console, (("webhook", f"{told.state} after {tries}"),))

    session.out.show(described, show_all)


def _told(client: Client, request_id: str) -> Webhook | None:
    """Whom the platform tells of its end; None for nobody."""
    from quickthaw.wire.errors import WebhookNotFound

    try:
        return client.webhooks.get(request_id)
    except WebhookNotFound:
        return None


@session_command(app, "save")
def save(
    session: Session,
    request: RequestArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the files are saved.")
    ] = Path("quickthaw-output"),
) -> None:
    """Fetch the files of a request that has ended, as `quickthaw run` does."""
    from quickthaw.cli.running import as_json, check_folder, save_files

    with session.client() as client:
        found = client.get(request)
        check_folder(output)
        files = save_files(client, found, output)

    def render(console: Console) -> None:
        for path in files:
            console.print(str(path), markup=False)
        if not files:
            console.print(f"[dim]{request} is {found.state}: it has no files[/dim]")

    session.out.show(as_json(found, files), render)


@session_command(app, "cancel")
def cancel(session: Session, request: RequestArgument) -> None:
    """Ask for cancellation. Running work stops at its next step; what ran is billed."""
    with session.client() as client:
        state = client.cancel(request)
    answer = {"request_id": request, "state": state}
    # Cancelling what has ended is no error: a script may come too late. A person is told.
    told = f"had already {state}" if state in ("succeeded", "failed") else f"is {state}"
    session.out.show(answer, lambda console: console.print(f"{request} {told}"))


@session_command(app, "watch")
def watch(
    session: Session,
    request: RequestArgument,
    after: Annotated[int, typer.Option(min=0, help="Skip events up to this sequence number.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where previews are saved.")
    ] = Path("quickthaw-output"),
) -> None:
    """Follow a request to its end, one line an event. Ctrl-C leaves the request alone."""
    from quickthaw.cli.running import EventPrinter
    from quickthaw.client import Finished

    printer = EventPrinter(session.out, output, enabled=True)
    with session.client() as client:
        for event in client.watch(request, after_sequence=after):
            printer.take(event)
            if isinstance(event, Finished):
                printer.finish(event.request, [])


@session_command(explain_app, "explain")
def explain(
    session: Session,
    request: Annotated[
        str | None,
        typer.Argument(metavar="[REQUEST]", help="A request's id. Default: your newest."),
    ] = None,
) -> None:
    """Why a request ran where it did: every candidate's terms, every refusal's reason.

    Seconds, summed; the smallest score wins. For a request that waits: why no worker can take it
    now. Kept for the newest requests, over restarts.

    ```
    quickthaw explain
    quickthaw explain REQUEST --json | jq '.decisions[0].refusals'
    ```
    """
    from quickthaw.cli.explaining import explanation

    with session.client() as client:
        request = request or _newest(client)
        found = client.explain(request)
        asked = None if session.out.as_json else client.get(request)
    session.out.show(found, lambda console: explanation(console, found, asked))


def _newest(client: Client) -> str:
    from quickthaw.cli.errors import UsageFault

    for each in client.list(limit=1):
        return each.request_id
    raise UsageFault("you have no requests yet", "`quickthaw run` makes one")
