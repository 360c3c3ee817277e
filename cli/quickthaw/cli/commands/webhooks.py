"""`quickthaw webhooks ...`: whom the platform tells of a request's end, and how that went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Webhook

app = typer.Typer()
RequestArgument = Annotated[
    str, typer.Argument(metavar="REQUEST", help="The id of the request whose webhook it is.")
]


@session_default(app)
def webhooks(session: Session) -> None:
    """Your webhooks: list, show, redeliver, rotate-key. Without a command: the newest 20."""
    list_webhooks(session)


@session_command(app, "list")
def list_webhooks(
    session: Session,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="Only these: waiting, due, delivered, failed."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, newest first.")] = 20,
) -> None:
    """Webhooks, those of the newest requests first.

    ```
    quickthaw webhooks list --state failed
    ```
    """
    from quickthaw.cli.words import read_words
    from quickthaw.client import WebhookState

    states = read_words("--state", state or (), WebhookState)
    with session.client() as client:
        found = list(client.webhooks.list(states=states, limit=limit))

    def render(console: Console) -> None:
        from quickthaw.cli.render import clock, listing, literal, table

        rows = [
            (
                each.request_id,
                str(each.state),
                each.attempts,
                clock(each.due_unix_ms) if each.state is WebhookState.DUE else "",
                _last(each),
                literal(each.url),
            )
            for each in found
        ]
        headings = ("request", "state", "attempts", "next", "last", "url")
        listing(console, table(headings, rows, "attempts"), "no webhooks")

    session.out.show(found, render)


@session_command(app, "show")
def show(session: Session, request: RequestArgument) -> None:
    """One webhook with its newest attempts."""
    with session.client() as client:
        found = client.webhooks.get(request)
    session.out.show(found, lambda console: _render(console, found))


@session_command(app, "redeliver")
def redeliver(session: Session, request: RequestArgument) -> None:
    """Deliver it again, with all its tries, whether or not it had arrived.

    ```
    quickthaw webhooks redeliver REQUEST
    ```
    """
    with session.client() as client:
        found = client.webhooks.redeliver(request)
    session.out.show(found, lambda console: console.print(f"the webhook of {request} is due now"))


@session_command(app, "rotate-key")
def rotate_key(session: Session) -> None:
    """Sign fal-style webhooks with a new key. Needs an admin key.

    The old one stays in the published set for a day, for receivers that keep a copy of it.
    """
    with session.client() as client:
        made = client.webhooks.rotate_key()
    session.out.show(made, lambda console: console.print(f"{made.kid} signs from now on"))


def _last(webhook: Webhook) -> str:
    """How the last attempt went, in a word."""
    if not webhook.history:
        return ""
    last = webhook.history[-1]
    return str(last.status) if last.status else "no answer"


def _render(console: Console, webhook: Webhook) -> None:
    from quickthaw.cli.render import clock, literal, pairs, span, table

    pairs(
        console,
        (
            ("request", webhook.request_id),
            ("url", literal(webhook.url)),
            ("dialect", webhook.dialect),
            ("state", str(webhook.state)),
            ("attempts", str(webhook.attempts)),
            ("next", clock(webhook.due_unix_ms) if webhook.state == "due" else ""),
        ),
    )
    rows = [
        (clock(each.unix_ms), each.status or "", span(each.spent_ms), literal(each.error))
        for each in webhook.history
    ]
    if rows:
        console.print(table(("reported", "status", "spent", "error"), rows, "status spent"))
