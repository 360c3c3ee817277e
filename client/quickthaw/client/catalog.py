"""Models as the catalog has them."""

from __future__ import annotations

from dataclasses import dataclass

from quickthaw.client.requests import JsonObject


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a model: the unit of residency."""

    name: str
    digest: str
    """Content address, lower-case hex SHA-256 of the file."""
    size_bytes: int
    """On the device, padding included."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked for, or, in `models.register`, that shall be."""

    id: str
    """`owner/name[/variant]`."""
    family: str
    snapshot_digest: str
    snapshot_uri: str
    """Where a worker that lacks the snapshot gets it: an absolute folder or an object-store URL."""
    components: tuple[Component, ...]
    """In load order."""
    working_bytes: int
    """Device memory beyond the weights that one run needs at the family's largest input."""
    input_schema: JsonObject
    """JSON Schema (2020-12) of the input, with defaults."""
    aliases: tuple[str, ...] = ()
    description: str = ""
    license: str = ""
    registered_unix_ms: int = 0
    """Set by the server."""

    @property
    def size_bytes(self) -> int:
        """The weights of every component together."""
        return sum(component.size_bytes for component in self.components)


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to a registration; `changed` is False if exactly this was registered before."""

    model: Model
    changed: bool
