"""From files of weights to a snapshot: what `deploy` and the packer have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quickthaw.cli.snapshots import bring_in
from quickthaw.client import Model
from quickthaw.snapshot import Snapshot, SnapshotStore
from quickthaw.wire.errors import InvalidArgument

if TYPE_CHECKING:
    from quickthaw.snapshot.fields import JsonValue
    from quickthaw.snapshot.finished import Finished
    from quickthaw.snapshot.pack import OnProgress


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a source becomes a snapshot. `quickthaw.snapshot.pack` says what each field means."""

    base: str | None = None
    """A model's name, for messages."""
    family: str | None = None
    component: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    scale: float | None = None
    title: str = ""
    licence: str = ""


def base_in(store: SnapshotStore, model: Model) -> Snapshot:
    """A model's snapshot, in `store`, wherever it is served from. Raises InvalidArgument for a
    model without weights, NotFound, SnapshotCorrupt, StorageFull."""
    from quickthaw.cli.commands.snapshot_remote import bring_from

    digest = model.snapshot_digest
    if not digest:
        raise InvalidArgument(f"{model.id} has no weights, so nothing can be deployed over it")
    if digest not in store:
        if "://" in model.snapshot_uri:
            bring_from(model.snapshot_uri, digest, store)
        else:
            bring_in(Path(model.snapshot_uri), digest, store)
    return store.open(digest)


def check_source(source: Path, recipe: Recipe, base: Snapshot | None) -> None:
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
            f"{source} is of family {family}, but --base {recipe.base} is of family "
            f"{base.manifest.family}; name a base of its own family, or none"
        )
    if recipe.family is not None and recipe.family != family:
        raise InvalidArgument(f"{source} is of family {family}, not {recipe.family}")


def packed_in(
    store: SnapshotStore,
    source: Path,
    recipe: Recipe,
    base: Snapshot | None,
    defaults: Mapping[str, JsonValue] | None,
    on_progress: OnProgress,
    finished: Finished | None = None,
) -> str:
    """The digest of a snapshot of the source. Raises as `pack`."""
    from quickthaw.snapshot.pack import pack

    return pack(
        source,
        store,
        family=recipe.family,
        title=recipe.title,
        licence=recipe.licence,
        defaults=defaults,
        base=base,
        component=recipe.component,
        dtype=recipe.dtype,
        quantize=recipe.quantize,
        scale=recipe.scale,
        on_progress=on_progress,
        finished=finished,
    )
