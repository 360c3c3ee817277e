"""What a command prints: for a person, or as JSON with stable names. Errors too.

With `--json` stdout holds one JSON object (or one a line, where a command streams) and nothing
else. Progress and errors for a person go to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from quickthaw.cli.errors import PartFailed, UsageFault
from quickthaw.wire import errors

if TYPE_CHECKING:
    from rich.console import Console


PIPE_COLUMNS = 10_000
"""Wider than any table."""


class Output:
    """Where a command's results go."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, value: object, render: Callable[[Console], None]) -> None:
        """`value` as JSON, or what `render` prints. Values are dataclasses or plain JSON."""
        if self.as_json:
            print(json.dumps(plain(value), indent=2, ensure_ascii=False), flush=True)
        else:
            render(stdout())

    def line(self, value: object) -> None:
        """One JSON object on a line of its own."""
        print(json.dumps(plain(value), ensure_ascii=False), flush=True)


def stdout() -> Console:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty():
        # A line for each row, however long: what reads a pipe wants ids in one piece.
        console.width = PIPE_COLUMNS
    return console


def stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def plain(value: object) -> object:
    """Dataclasses as mappings, all the way down; bytes are left out, since JSON has none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not isinstance(getattr(value, field.name), bytes)
        }
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


_HINTS: tuple[tuple[type[errors.QuickthawError], str, str], ...] = (
    (errors.ModelNotFound, "", "`quickthaw models` lists what there is"),
    (errors.InvalidInput, "", "`quickthaw models show MODEL` prints the model's inputs"),
    (
        errors.SnapshotCorrupt,
        "",
        "`quickthaw snapshot verify FOLDER` names all that is wrong; `quickthaw models add` of an "
        "intact copy mends the platform's",
    ),
    (errors.WorkerNotFound, "", "`quickthaw workers` lists what is attached"),
    (errors.KeyNotFound, "", "`quickthaw keys` lists what there is"),
    (errors.RequestNotFound, "", "`quickthaw requests` lists yours"),
    (
        errors.Unauthenticated,
        "",
        "set QUICKTHAW_KEY, or point QUICKTHAW_DATA_DIR at `up`'s directory",
    ),
    (
        errors.PermissionDenied,
        "scope",
        "use a key with that scope; `up` writes one for admins to its key-file",
    ),
    (errors.StoreUnavailable, "", ""),
    (
        errors.Unavailable,
        "cannot reach",
        "is the platform running, and is that its address? `quickthaw up` starts one",
    ),
)
"""Which hint an error has, if its message has that word: a bucket refuses for other reasons than a
key's scope, and a platform without a free worker is running."""


def _hint(error: errors.QuickthawError) -> str:
    for kind, word, hint in _HINTS:
        if isinstance(error, kind):
            return hint if word in error.message else ""
    return ""


def _is_told(violation: errors.FieldViolation, message: str) -> bool:
    return violation.field.rpartition(".")[2] in message and violation.description in message


def describe(error: Exception) -> dict[str, object]:
    """An error as `--json` shows it, under the name `error`."""
    described: dict[str, object] = {"reason": "INTERNAL", "message": str(error), "hint": ""}
    match error:
        case errors.QuickthawError():
            described["reason"] = error.reason
            hint = _hint(error)
            # What the message says already needs no hint.
            described["hint"] = "" if "`quickthaw " in error.message else hint
            described["violations"] = [
                {name: word for name, word in dataclasses.asdict(each).items() if word}
                for each in error.violations
            ]
            described["metadata"] = dict(error.metadata)
            described["retry_delay_seconds"] = error.retry_delay_seconds
        case PartFailed():
            described["reason"] = "PART_FAILED"
            described["last_lines"] = list(error.last_lines)
        case UsageFault():
            described["reason"] = "USAGE"
            described["hint"] = error.hint
        case OSError():
            described["reason"] = "OS_ERROR"
            described["message"] = (
                f"{error.filename}: {error.strerror}" if error.filename else str(error)
            )
        case _:
            pass
    return described


def report_error(error: Exception, as_json: bool) -> None:
    """One line `error: ...` on stderr, then what is wrong with which argument and a hint."""
    described = describe(error)
    if as_json:
        print(json.dumps({"error": described}, ensure_ascii=False), flush=True)
        return
    lines = [f"error: {described['message']}"]
    if isinstance(error, errors.QuickthawError):
        lines += [
            f"  {each.field}: {each.description}"
            for each in error.violations
            if not _is_told(each, error.message)
        ]
    if isinstance(error, PartFailed):
        lines += [f"  | {line}" for line in error.last_lines]
    if described["hint"]:
        lines.append(f"hint: {described['hint']}")
    print("\n".join(lines), file=sys.stderr, flush=True)
