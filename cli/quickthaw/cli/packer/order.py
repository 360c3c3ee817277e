"""What the packer tells the process that reads a tenant's files, and what that answers.

One JSON object goes in on stdin; JSON objects come out on stdout, a line each: progress any number
of times, then the digest or what went wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from quickthaw.cli.making import Recipe
from quickthaw.cli.packer.isolation import Rooms
from quickthaw.client import JsonValue


@dataclass(frozen=True, slots=True)
class Order:
    source: str
    """The file or folder to pack."""
    hidden: tuple[str, ...]
    """Folders that messages for the tenant go without."""
    snapshots: str
    """The store to pack into."""
    finished: str
    """A file that remembers which components are in that store already."""
    bases: str
    """The store that holds the base, to be read only."""
    base_digest: str
    """Of a snapshot that is there; empty for none."""
    recipe: Recipe
    data_bytes_max: int
    rooms: Rooms
    defaults: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        values: dict[str, Any] = json.loads(text)
        recipe, rooms = Recipe(**values.pop("recipe")), rooms_from(values.pop("rooms"))
        return cls(hidden=tuple(values.pop("hidden")), recipe=recipe, rooms=rooms, **values)


def rooms_from(values: Mapping[str, Any]) -> Rooms:
    """As JSON has them, which knows no tuples."""
    return Rooms(tuple(values["readable"]), tuple(values["writable"]), values["user"])


@dataclass(frozen=True, slots=True)
class Packing:
    """How far it is."""

    component: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Packed:
    digest: str


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str
    message: str


def without(folders: Iterable[str], message: str) -> str:
    """Where the packer keeps its files is nobody's business."""
    for folder in folders:
        message = message.replace(folder + "/", "").replace(folder, "the files")
    return message


Answer = Packing | Packed | Refused
_KINDS: Mapping[str, type[Packing | Packed | Refused]] = {
    "packing": Packing,
    "packed": Packed,
    "refused": Refused,
}


def answer_line(answer: Answer) -> str:
    kind = next(name for name, each in _KINDS.items() if isinstance(answer, each))
    return json.dumps({"is": kind, **asdict(answer)})


def parse_answer(line: bytes) -> Answer | None:
    """None for what is no answer: libraries print too."""
    try:
        values: Any = json.loads(line)
        return _KINDS[values.pop("is")](**values)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
