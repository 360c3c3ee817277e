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
from quickthaw.cli.packing import fetched, packing_bar, quiet_libraries, read_defaults
from quickthaw.cli.snapshots import bring_in, local_data_dir, model_of
from quickthaw.client import Client, Model, ModelEndpoint, Visibility
from quickthaw.snapshot import Snapshot, SnapshotStore
from quickthaw.wire.errors import InvalidArgument, ModelNotFound

if TYPE_CHECKING:
    from quickthaw.cli.session import Session

NAME_CHARS_MAX = 200
_NAME = re.compile(r"[a-z0-9._-]+/[a-z0-9._-]+(/[a-z0-9._-]+)?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `deploy` was asked for."""

    source: Path
    name: str
    base: str | None = None
    family: str | None = None
    component: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    scale: float | None = None
    defaults: tuple[str, ...] = ()
    """As `name=value`."""
    title: str = ""
    licence: str = ""
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
    from quickthaw.snapshot.pack import pack

    quiet_libraries()
    source = fetched(wanted.source)
    base = None if wanted.base is None else base_of(client, wanted.base, store)
    check_source(source, wanted, base)
    below = None if base is None else base.digest
    defaults = (
        read_defaults(list(wanted.defaults), source, below, store.root) if wanted.defaults else None
    )
    with packing_bar(source.name) as on_progress:
        digest = pack(
            source,
            store,
            family=wanted.family,
            title=wanted.title,
            licence=wanted.licence,
            defaults=defaults,
            base=below,
            component=wanted.component,
            dtype=wanted.dtype,
            quantize=wanted.quantize,
            scale=wanted.scale,
            on_progress=on_progress,
        )
    return store.open(digest)


def base_of(client: Client, name: str, store: SnapshotStore) -> Snapshot:
    """The base's snapshot, in `store`, wherever it is served from. Raises ModelNotFound."""
    from quickthaw.cli.commands.snapshot_remote import bring_from

    model = client.models.get(name)
    digest = model.snapshot_digest
    if not digest:
        raise InvalidArgument(f"{model.id} has no weights, so nothing can be deployed over it")
    if digest not in store:
        if "://" in model.snapshot_uri:
            bring_from(model.snapshot_uri, digest, store)
        else:
            bring_in(Path(model.snapshot_uri), digest, store)
    return store.open(digest)


def check_source(source: Path, wanted: Wanted, base: Snapshot | None) -> None:
    """Raises InvalidArgument or SnapshotInvalid for what its name, header or index gives away."""
    from quickthaw.snapshot.adapters.convert import is_lora
    from quickthaw.snapshot.sources import check_folder

    if source.is_dir():
        family = check_folder(source)[0].name
    elif not source.is_file():
        raise InvalidArgument(f"{source}: no such file or folder")
    else:
        what = "a LoRA" if is_lora(source) else "a single file of weights"
        if base is None:
            raise InvalidArgument(
                f"{source} is {what}: name the model that it was made for with --base MODEL; "
                "`quickthaw models` lists them"
            )
        family = base.manifest.family
    if base is not None and base.manifest.family != family:
        raise InvalidArgument(
            f"{source} is of family {family}, but --base {wanted.base} is of family "
            f"{base.manifest.family}; name a base of its own family, or none"
        )
    if wanted.family is not None and wanted.family != family:
        raise InvalidArgument(f"{source} is of family {family}, not {wanted.family}")


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
