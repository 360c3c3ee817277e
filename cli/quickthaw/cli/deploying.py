"""From a file or folder of weights to an endpoint: packed, brought to where workers read, tried,
registered. Nobody is served by a version before it has drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.making import Recipe, base_in, check_source, packed_in
from quickthaw.cli.packing import fetched, packing_bar, quiet_libraries, read_defaults
from quickthaw.cli.snapshots import local_data_dir, model_of
from quickthaw.client import Client, Model, ModelEndpoint, Visibility
from quickthaw.snapshot import Snapshot, SnapshotStore
from quickthaw.wire.errors import ModelNotFound

if TYPE_CHECKING:
    from quickthaw.cli.session import Session

NAME_CHARS_MAX = 200
_NAME = re.compile(r"[a-z0-9._-]+/[a-z0-9._-]+(/[a-z0-9._-]+)?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `deploy` was asked for."""

    source: Path
    name: str
    recipe: Recipe
    defaults: tuple[str, ...] = ()
    """As `name=value`."""
    to: str | None = None
    """URL of a bucket or folder to serve from; None for the platform's own store."""


def check_name(name: str) -> str:
    """Raises UsageFault, before anything that takes long."""
    if _NAME.fullmatch(name) is None or len(name) > NAME_CHARS_MAX:
        raise UsageFault(
            f"--name {name[:80]!r} is no name for a model",
            "give owner/name, of a-z, 0-9, '.', '_' and '-', such as me/style",
        )
    return name


def known(client: Client, name: str) -> Model | None:
    """The model as it is now; None if there is none. Raises UsageFault for an alias of another."""
    try:
        found = client.models.get(name)
    except ModelNotFound:
        return None
    if found.id != name:
        raise UsageFault(f"{name!r} is another name of {found.id}", f"deploy to {found.id} itself")
    return found


@contextmanager
def working_store(session: Session, client: Client, to: str | None) -> Iterator[SnapshotStore]:
    """Where to pack: the platform's own store, or a folder that goes again for what is pushed.

    Raises UsageFault if the platform is elsewhere and `to` does not say where its workers read.
    """
    try:
        store = SnapshotStore(local_data_dir(session, client) / "snapshots")
    except UsageFault as fault:
        if to is None:
            raise UsageFault(
                fault.message,
                "name its data directory with --data-dir, or with --to a bucket that its workers "
                "reach",
            ) from fault
    else:
        yield store
        return
    with TemporaryDirectory(prefix="quickthaw-") as folder:
        yield SnapshotStore(folder)


def packed(client: Client, wanted: Wanted, store: SnapshotStore) -> Snapshot:
    """A snapshot of the source in `store`; what is wrong with it is said before it is read whole.

    Raises InvalidArgument, SnapshotInvalid (a pickle, a file cut short, a header that lies, tensors
    that do not fit the base), ModelNotFound (the base), StorageFull.
    """
    quiet_libraries()
    source = fetched(wanted.source)
    name = wanted.recipe.base
    base = None if name is None else base_in(store, client.models.get(name))
    check_source(source, wanted.recipe, base)
    below = None if base is None else base.digest
    defaults = (
        read_defaults(list(wanted.defaults), source, below, store.root) if wanted.defaults else None
    )
    with packing_bar(source.name) as on_progress:
        digest = packed_in(store, source, wanted.recipe, base, defaults, on_progress)
    return store.open(digest)


def placed(wanted: Wanted, snapshot: Snapshot, before: Model | None) -> Model:
    """The model to register, its snapshot where workers read it. Aliases stay what they were."""
    from quickthaw.cli.commands.snapshot_remote import send

    if wanted.to is not None:
        send(snapshot.store, snapshot.digest, wanted.to)
    aliases = () if before is None else before.aliases
    return model_of(snapshot, wanted.name, aliases, uri=wanted.to)


def endpoint_for(
    client: Client, before: Model | None, visibility: Visibility | None, owner: str
) -> ModelEndpoint | None:
    """How the model shall be served; None leaves it as it is.

    A new one is private to `owner`, by default the caller, unless something else is asked for.
    """
    if before is None:
        now = ModelEndpoint("")
        visibility = visibility or Visibility.PRIVATE
    elif visibility is None and not owner:
        return None
    else:
        now = client.endpoints.get(before.id)
    wanted = replace(
        now, visibility=visibility or now.visibility, owner_tenant=owner or now.owner_tenant
    )
    return None if wanted == now else wanted
