"""`quickthaw keys ...`: who may call, and how much."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.commands.billing import parse_time
from quickthaw.cli.commands.budget import parse_dollars
from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Key, KeyLimits, NewKey

app = typer.Typer()

HOUR_MS = 3_600_000
HOURS_MAX = 720.0

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="A key's id, or the key itself: only its id is sent.")
]
RateOption = Annotated[
    int | None,
    typer.Option("--requests-per-minute", min=0, help="New requests; 0 for no limit."),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option("--concurrent-requests", min=0, help="That have not ended; 0 for no limit."),
]
PriceOption = Annotated[
    str | None,
    typer.Option("--max-price", metavar="DOLLARS", help="Of one request; 0 for no limit."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="Only this one, or owner/* for all of an owner's; may be repeated."
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(help="Write the key to this file, for its owner alone, and do not print it."),
]


@session_default(app)
def keys(session: Session) -> None:
    """Tenants' keys: list, create, rotate, update, revoke. Without a command: list.

    Needs an admin key.
    """
    list_keys(session)


@session_command(app, "list")
def list_keys(
    session: Session,
    tenant: Annotated[str, typer.Option(help="Only of this tenant.", show_default=False)] = "",
    revoked: Annotated[
        bool, typer.Option("--revoked", help="Also those that were revoked.")
    ] = False,
) -> None:
    """Every key with its limits; never a secret."""
    with session.client() as client:
        found = [key for key in client.keys.list(tenant) if revoked or not key.revoked_unix_ms]

    def render(console: Console) -> None:
        from quickthaw.cli.render import clock, literal, table

        rows = [
            (
                each.key_id,
                each.tenant,
                ", ".join(each.scopes),
                literal(each.label),
                clock(each.created_unix_ms),
                clock(each.last_used_unix_ms) if each.last_used_unix_ms else "never",
                _limits(each.limits),
                _validity(each),
            )
            for each in found
        ]
        headings = ("key", "tenant", "scopes", "label", "created", "used", "limits", "")
        console.print(table(headings, rows))

    session.out.show(found, render)


@session_command(app, "create")
def create(
    session: Session,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Made if it is new.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="call (default), deploy, admin or worker; may be repeated."),
    ] = None,
    label: Annotated[str, typer.Option(help="What it is for.", show_default=False)] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends to be valid. Default: never.")
    ] = None,
    requests_per_minute: RateOption = None,
    concurrent_requests: ConcurrencyOption = None,
    max_price: PriceOption = None,
    model: ModelOption = None,
    key_file: FileOption = None,
) -> None:
    """Make a key. Its secret is printed once and cannot be read again.

    ```
    export QUICKTHAW_KEY=$(quickthaw keys create my-team --label notebooks)
    quickthaw keys create web --requests-per-minute 60 --max-price 0.05 --model "acme/*"
    ```
    """
    from quickthaw.cli.words import read_words
    from quickthaw.client import KeyLimits, Scope

    scopes = read_words("--scope", scope or ("call",), Scope)
    expires_unix_ms = parse_time(expires, "--expires")
    limits = _changed(KeyLimits(), requests_per_minute, concurrent_requests, max_price, model)
    with session.client() as client:
        made = client.keys.create(
            tenant,
            scopes,
            label=label,
            expires_unix_ms=expires_unix_ms,
            limits=limits,
        )
    _hand_out(session, made, key_file)


@session_command(app, "rotate")
def rotate(
    session: Session,
    key: KeyArgument,
    grace_hours: Annotated[
        float,
        typer.Option(min=0, max=HOURS_MAX, help="How long the old secret stays good; 0: no more."),
    ] = 24.0,
    key_file: FileOption = None,
) -> None:
    """Give a key a new secret. Its id, label, limits and account stay.

    ```
    quickthaw keys rotate KEY                    # a day to change it everywhere
    quickthaw keys rotate KEY --grace-hours 0    # it leaked: the old one ends now
    ```
    """
    with session.client() as client:
        made = client.keys.rotate(_key_id(key), grace_ms=round(grace_hours * HOUR_MS))
    _hand_out(session, made, key_file)


@session_command(app, "update")
def update(
    session: Session,
    key: KeyArgument,
    label: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends to be valid, or never.")
    ] = None,
    requests_per_minute: RateOption = None,
    concurrent_requests: ConcurrencyOption = None,
    max_price: PriceOption = None,
    model: ModelOption = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="No longer only some models.")
    ] = False,
) -> None:
    """Change a key's label, end or limits, at once; what is not named stays.

    ```
    quickthaw keys update KEY --concurrent-requests 4 --expires 2027-01-01
    ```
    """
    from quickthaw.cli.errors import UsageFault

    if model and any_model:
        raise UsageFault("--model and --any-model contradict each other", "give one of them")
    key_id, expires_unix_ms = _key_id(key), _expiry(expires)
    with session.client() as client:
        known = next((each for each in client.keys.list() if each.key_id == key_id), None)
        before = known.limits if known is not None else None
        limits = None
        if before is not None:
            models = [] if any_model else model
            limits = _changed(before, requests_per_minute, concurrent_requests, max_price, models)
        changed = client.keys.update(
            key_id,
            label=label,
            expires_unix_ms=expires_unix_ms,
            limits=limits if limits != before else None,
        )
    session.out.show(changed, lambda console: console.print(f"{changed.key_id} is changed"))


@session_command(app, "revoke")
def revoke(session: Session, key: KeyArgument) -> None:
    """End a key's validity at once."""
    with session.client() as client:
        revoked = client.keys.revoke(_key_id(key))
    session.out.show(revoked, lambda console: console.print(f"{revoked.key_id} is revoked"))


def _hand_out(session: Session, made: NewKey, key_file: Path | None) -> None:
    if key_file is None:
        session.out.show(made, lambda console: console.print(made.secret, markup=False))
        return
    _write(key_file, made.secret)
    told = f"{made.key.key_id} is in {key_file}"
    session.out.show(made.key, lambda console: console.print(told, markup=False))


def _write(path: Path, secret: str) -> None:
    """In place of what was there, never half written, and readable by its owner alone."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _changed(
    limits: KeyLimits,
    requests_per_minute: int | None,
    concurrent_requests: int | None,
    max_price: str | None,
    models: list[str] | None,
) -> KeyLimits:
    """The limits with those that were given."""
    if requests_per_minute is not None:
        limits = replace(limits, requests_per_minute=requests_per_minute)
    if concurrent_requests is not None:
        limits = replace(limits, concurrent_requests=concurrent_requests)
    if max_price is not None:
        price = parse_dollars(max_price, "--max-price")
        limits = replace(limits, request_price_nanodollars=price)
    if models is not None:
        limits = replace(limits, models=tuple(models))
    return limits


def _expiry(text: str | None) -> int | None:
    """None to leave it as it is, 0 for never."""
    if text is None:
        return None
    return 0 if text.lower() == "never" else parse_time(text, "--expires")


def _key_id(text: str) -> str:
    """Of `qt_ID_SECRET` only the id: a secret that leaked need not travel again."""
    prefix, separator, rest = text.partition("_")
    return rest.split("_", 1)[0] if separator and prefix == "qt" else text


def _limits(limits: KeyLimits) -> str:
    from quickthaw.cli.render import money

    said = [
        f"{limits.requests_per_minute}/min" if limits.requests_per_minute else "",
        f"{limits.concurrent_requests} at once" if limits.concurrent_requests else "",
        f"{money(limits.request_price_nanodollars)} each"
        if limits.request_price_nanodollars
        else "",
        " ".join(limits.models),
    ]
    return ", ".join(filter(None, said))


def _validity(key: Key) -> str:
    from quickthaw.cli.render import clock

    if key.revoked_unix_ms:
        return f"revoked {clock(key.revoked_unix_ms)}"
    return f"until {clock(key.expires_unix_ms)}" if key.expires_unix_ms else ""
