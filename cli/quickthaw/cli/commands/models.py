"""`quickthaw models ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Client, Model

app = typer.Typer()


@session_default(app)
def models(session: Session) -> None:
    """The models that can be run: list, show, add, remove. Without a command: list."""
    list_models(session)


@session_command(app, "list")
def list_models(session: Session) -> None:
    """Every model of the catalog, with its size and aliases.

    ```
    quickthaw models list --json | jq '.[].id'
    ```
    """
    with session.client() as client:
        found = list(client.models.list())

    def render(console: Console) -> None:
        from quickthaw.cli.render import listing, literal, size, table

        rows = [
            (m.id, m.family, size(m.size_bytes), ", ".join(m.aliases), literal(m.description))
            for m in found
        ]
        listed = table(("model", "family", "weights", "aliases", "about"), rows, "weights")
        listing(console, listed, "no models yet; `quickthaw models add` adds one")

    session.out.show(found, render)


@session_command(app, "show")
def show(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Catalog id or alias.")],
) -> None:
    """One model: its inputs with their defaults and limits, its components, its licence."""
    with session.client() as client:
        found = client.models.get(model)
    session.out.show(found, lambda console: _render_model(console, found))


def _render_model(console: Console, model: Model) -> None:
    from collections.abc import Mapping

    from quickthaw.cli.limits import limits, spell
    from quickthaw.cli.render import clock, literal, pairs, size, table

    pairs(
        console,
        (
            ("model", model.id),
            ("aliases", ", ".join(model.aliases)),
            ("about", literal(model.description)),
            ("licence", literal(model.license)),
            ("family", model.family),
            ("weights", size(model.size_bytes)),
            ("working memory", size(model.working_bytes)),
            ("snapshot", model.snapshot_digest),
            ("from", model.snapshot_uri),
            ("registered", clock(model.registered_unix_ms)),
        ),
    )
    properties = model.input_schema.get("properties")
    required = model.input_schema.get("required") or ()
    if isinstance(properties, Mapping):
        rows = []
        for name, rule in properties.items():
            facts = rule if isinstance(rule, Mapping) else {}
            needed = isinstance(required, list) and name in required
            default = (
                "required" if needed else spell(facts["default"]) if "default" in facts else ""
            )
            shown = (name, default, limits(facts), facts.get("description", ""))
            rows.append(tuple(map(literal, shown)))
        console.print(table(("input", "default", "limits", "about"), rows))
    parts = [(part.name, size(part.size_bytes), part.digest[:16]) for part in model.components]
    console.print(table(("component", "size", "digest"), parts, "size"))


@session_command(app, "add")
def add(
    session: Session,
    snapshot: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT",
            help="A snapshot folder, as `pack` writes it, or where one was pushed: s3://, https://...",
        ),
    ],
    id: Annotated[str, typer.Option("--id", metavar="OWNER/NAME", help="The catalog id it gets.")],
    alias: Annotated[
        list[str] | None,
        typer.Option(
            "--alias",
            metavar="NAME",
            help="A short name; may be repeated. Default: those that the id has.",
        ),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Which one, where the folder holds several."),
    ] = None,
    description: Annotated[str, typer.Option(help="One line about it.", show_default=False)] = "",
    license: Annotated[str, typer.Option(help="Of the weights.", show_default=False)] = "",
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Leave the files where they are; every worker must reach them under that path.",
        ),
    ] = False,
) -> None:
    """Copy a snapshot into the platform's store, checking it, and put it into the catalog.

    Adding the same id again replaces the model by the new snapshot; accepted requests keep theirs.
    Adding the same snapshot again mends files of the store that were damaged.

    ```
    quickthaw snapshot pack ./my-diffusers-folder ./my-snapshot
    quickthaw models add ./my-snapshot --id me/my-model --alias mine
    quickthaw models add s3://models/quickthaw --digest 3f2a91c0... --id me/my-model
    ```

    A snapshot elsewhere stays there: workers start it from there, and keep what they fetched.
    """
    from quickthaw.cli.commands.snapshot_remote import open_pushed
    from quickthaw.cli.snapshots import bring_in, local_data_dir, model_of
    from quickthaw.snapshot import SnapshotStore, locate

    folder = Path(snapshot).absolute()
    uri = None
    with session.client() as client:
        if "://" in snapshot:
            uri, found = snapshot, open_pushed(snapshot, digest)
        elif in_place:
            found = locate(folder, digest)
        else:
            store = SnapshotStore(local_data_dir(session, client) / "snapshots")
            found = bring_in(folder, digest, store, mend=True)
        aliases = tuple(alias) if alias else _aliases_of(id, client)
        model = model_of(found, id, aliases, description, license, uri=uri)
        registered = client.models.register(model)

    def render(console: Console) -> None:
        what = "registered" if registered.changed else "was registered already"
        console.print(f"{registered.model.id} {what}")

    session.out.show(registered, render)


def _aliases_of(model_id: str, client: Client) -> tuple[str, ...]:
    from quickthaw.wire.errors import ModelNotFound

    try:
        known = client.models.get(model_id)
    except ModelNotFound:
        return ()
    return known.aliases if known.id == model_id else ()


@session_command(app, "remove")
def remove(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Catalog id or alias.")],
) -> None:
    """Take a model out of the catalog. Accepted requests still run; no file is deleted."""
    with session.client() as client:
        client.models.remove(model)
    session.out.show({"removed": model}, lambda console: console.print(f"{model} removed"))
