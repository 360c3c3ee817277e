"""Models as the catalog has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

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


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """What a model is, or was."""

    number: int
    """1 for the first."""
    model: Model
    """With the time at which this version was first registered."""
    current: bool
    """Whether new requests get it."""


@dataclass(frozen=True, slots=True)
class UnusedSnapshot:
    """A snapshot that neither a version of a model nor an open request needs."""

    digest: str
    uri: str
    """Where it was registered from."""


class Visibility(StrEnum):
    """Who may call an endpoint, and what it runs on."""

    SHARED = "shared"
    """Every tenant."""
    PRIVATE = "private"
    """Its owner's keys only."""
    DEDICATED = "dedicated"
    """Its owner's keys only, on workers that serve nothing else."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a version of a model takes no requests."""

    reason: str
    since_unix_ms: int
    snapshot_digest: str


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """How a model is served. `quickthaw.v1.Endpoint` says what each setting means."""

    model: str
    visibility: Visibility = Visibility.SHARED
    owner_tenant: str = ""
    min_replicas: int = 0
    max_replicas: int = 0
    """0 for no limit."""
    buffer: int = 0
    scale_up_delay_ms: int = 0
    scale_down_delay_ms: int = 0
    keep_alive_ms: int = 0
    """0 for what the model's own pauses say."""
    concurrency_max: int = 0
    """0 for no limit."""
    reserved_workers: int = 0
    worker_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    replicas: int = 0
    """Set by the server, as is what follows."""
    quarantine: Quarantine | None = None
    reserved_worker_ids: tuple[str, ...] = ()
