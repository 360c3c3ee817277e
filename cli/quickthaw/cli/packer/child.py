"""`python -m quickthaw.cli.packer.child`: reads a tenant's files and writes the snapshot.

The one process that opens what a stranger made. It has no key, sees neither network nor any files
but those of its job (as far as the system has such walls), and has a bound on its memory and a
parent that ends it when its time is over.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from quickthaw.cli.packer.isolation import confine, limit_memory
from quickthaw.cli.packer.order import (
    Answer,
    Order,
    Packed,
    Packing,
    Refused,
    answer_line,
    without,
)
from quickthaw.wire.errors import (
    InvalidArgument,
    QuickthawError,
    ResourceExhausted,
    SnapshotInvalid,
    StorageFull,
)

if TYPE_CHECKING:
    from quickthaw.snapshot import Snapshot
    from quickthaw.snapshot.fields import JsonValue
    from quickthaw.snapshot.pack import PackProgress

MESSAGE_CHARS_MAX = 1_500


def main() -> None:
    order = Order.from_json(sys.stdin.read())
    confine(order.rooms)
    limit_memory(order.data_bytes_max)
    try:
        _say(Packed(packed(order)))
    except QuickthawError as error:
        _say(_refused(order, error.reason, error.message))
    except Exception as error:  # What strangers' files make of other people's parsers has no list.
        _say(_explained(order, error))


def packed(order: Order) -> str:
    """The digest. Raises as `pack`, and whatever libraries raise for what they cannot read."""
    from quickthaw.cli.making import check_source, packed_in
    from quickthaw.cli.packing import quiet_libraries
    from quickthaw.snapshot import SnapshotStore
    from quickthaw.snapshot.finished import Finished

    quiet_libraries()
    source, store = Path(order.source), SnapshotStore(order.snapshots)
    base = SnapshotStore(order.bases).open(order.base_digest) if order.base_digest else None
    _say(Packing("looking at the files", 0, 0))
    check_source(source, order.recipe, base)
    if order.defaults:
        _check_defaults(order, source, base)
    last_bytes = 0

    def on_progress(done: PackProgress) -> None:
        nonlocal last_bytes
        if done.packed_bytes - last_bytes >= done.total_bytes // 100:
            last_bytes = done.packed_bytes
            _say(Packing(f"packing {done.component}", done.packed_bytes, done.total_bytes))

    # Both sides call a parsed JSON value by a name of their own.
    defaults = cast("dict[str, JsonValue]", dict(order.defaults)) or None
    finished = Finished(store, Path(order.finished))
    return packed_in(store, source, order.recipe, base, defaults, on_progress, finished)


def _check_defaults(order: Order, source: Path, base: Snapshot | None) -> None:
    """Raises InvalidArgument for a name that the family does not take."""
    from quickthaw.snapshot.families import ANY_SIZE, family_named
    from quickthaw.snapshot.sources import check_folder

    family = check_folder(source)[0] if base is None else family_named(base.manifest.family)
    properties = family.input_schema(ANY_SIZE)["properties"]
    known = list(properties) if isinstance(properties, dict) else []
    for name in order.defaults:
        if name not in known:
            raise InvalidArgument(
                f"defaults.{name}: the inputs of the family {family.name} are: {', '.join(known)}"
            )


def _explained(order: Order, error: Exception) -> Refused:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _refused(order, StorageFull.reason, "the packer's disk is full")
    # Tensor libraries say it in an error of their own, and the loader of libraries in another.
    text = str(error).lower()
    if isinstance(error, MemoryError) or "alloc" in text or "failed to map" in text:
        return _out_of_memory(order)
    return _unreadable(order, error)


def _out_of_memory(order: Order) -> Refused:
    return _refused(
        order,
        ResourceExhausted.reason,
        f"packing needs more than the {order.data_bytes_max} bytes of memory that a packer may "
        "have; deploy smaller files, or what differs from a base",
    )


def _unreadable(order: Order, error: Exception) -> Refused:
    first_line = str(error).strip().partition("\n")[0]
    return _refused(
        order,
        SnapshotInvalid.reason,
        f"the files cannot be read as a model: {type(error).__name__}: {first_line}",
    )


def _refused(order: Order, reason: str, message: str) -> Refused:
    told = without(order.hidden, message)
    return Refused(reason, told.replace(" with --base MODEL", "")[:MESSAGE_CHARS_MAX])


def _say(answer: Answer) -> None:
    print(answer_line(answer), flush=True)


if __name__ == "__main__":
    main()
