"""What happens to a request while it is watched. `Event` is the union; match on the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quickthaw.client.requests import Failure, Request, RequestState


@dataclass(frozen=True, slots=True)
class EventHeader:
    """What every event carries. Sequences rise; a gap means dropped previews or logs."""

    request_id: str
    sequence: int
    unix_ms: int


@dataclass(frozen=True, slots=True)
class StateChanged(EventHeader):
    state: RequestState
    worker_id: str
    attempt: int
    queue_position: int
    detail: str
    """For example why an attempt was lost and the request queued again."""


@dataclass(frozen=True, slots=True)
class Progressed(EventHeader):
    step: int
    """1 to `steps`."""
    steps: int


@dataclass(frozen=True, slots=True)
class Previewed(EventHeader):
    step: int
    image_index: int
    content_type: str
    data: bytes
    """An encoded picture, at most 256 KiB."""
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Logged(EventHeader):
    level: str
    """debug, info, warning or error."""
    text: str


@dataclass(frozen=True, slots=True)
class Finished(EventHeader):
    """The last event of every watch."""

    request: Request


@dataclass(frozen=True, slots=True)
class OtherEvent(EventHeader):
    """An event of a kind that this version of the client does not know."""


Event: TypeAlias = StateChanged | Progressed | Previewed | Logged | Finished | OtherEvent


@dataclass(frozen=True, slots=True)
class RealtimeEvent:
    """Something that happened to the input that the caller named `tag`."""

    tag: str
    event: Event


@dataclass(frozen=True, slots=True)
class RealtimeRefused:
    """The input that the caller named `tag` was not accepted; nothing was journalled."""

    tag: str
    failure: Failure


RealtimeAnswer: TypeAlias = RealtimeEvent | RealtimeRefused
