"""What commands that pack a snapshot share: bars, quiet libraries, defaults of the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from quickthaw.cli.output import stderr

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from quickthaw.client import JsonObject
    from quickthaw.snapshot.fields import JsonValue
    from quickthaw.snapshot.pack import PackProgress


@contextmanager
def bar(text: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    """A bar of bytes on stderr; nothing where that is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = stderr()
    with Progress(
        *columns,
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield progress, progress.add_task(text, total=total)


def quiet_libraries() -> None:
    """Their progress bars and advice would run through ours."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def fetched(source: Path) -> Path:
    """What is on the hub, brought here; everything else as it is."""
    from quickthaw.snapshot.remote.hub import fetch_pipeline, is_hub_name

    return fetch_pipeline(str(source)) if is_hub_name(str(source)) else source


def read_defaults(
    pairs: list[str], source: Path, base: str | None, destination: Path
) -> dict[str, JsonValue]:
    """The input that the pairs spell, for the family of the base or of the diffusers folder.

    Raises UsageFault, NotFound, SnapshotInvalid.
    """
    from quickthaw.cli.errors import UsageFault
    from quickthaw.cli.values import parse_inputs
    from quickthaw.snapshot import SnapshotStore
    from quickthaw.snapshot.delta_pack import base_snapshot
    from quickthaw.snapshot.families import ANY_SIZE, family_named
    from quickthaw.snapshot.sources import check_folder

    below = base_snapshot(base, SnapshotStore(destination))
    if below is not None:
        family = family_named(below.manifest.family)
    else:
        family, *_ = check_folder(source if base is None else Path(base))
    schema = family.input_schema(ANY_SIZE)
    try:
        # Both sides call a parsed JSON object by a name of their own.
        values = parse_inputs(pairs, cast("JsonObject", schema), family.name)
    except UsageFault as fault:
        known = ", ".join(cast("dict[str, object]", schema["properties"]))
        hint = f"the inputs of the family {family.name} are: {known}"
        raise UsageFault(f"--default: {fault.message}", hint) from fault
    return cast("dict[str, JsonValue]", values)


@contextmanager
def packing_bar(name: str) -> Iterator[Callable[[PackProgress], None]]:
    """A bar that follows `pack`, and says which component it is at."""
    with bar(f"packing {name}", None) as (progress, task):

        def on_progress(done: PackProgress) -> None:
            progress.update(
                task,
                description=f"packing {done.component}",
                completed=done.packed_bytes,
                total=done.total_bytes,
            )

        yield on_progress
