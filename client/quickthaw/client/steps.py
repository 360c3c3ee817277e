"""What an operation may ask of the outside world.

Every call of the SDK is written once, as a generator that yields steps and is sent their outcomes;
an error of a step is thrown into it as a `QuickthawError`. `sync_driver` performs steps by
blocking, `async_driver` by awaiting. So retries, reconnecting and checks exist once, and are tested
without a network or a clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from quickthaw.client.methods import Method


class Stream(ABC):
    """The receiving end of a server's stream."""

    @abstractmethod
    def cancel(self) -> None:
        """Ends it, at once and idempotently."""


@dataclass(frozen=True, slots=True)
class Call:
    """Answered with the response message."""

    method: Method[Message, Message]
    message: Message
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """Answered with a `Stream`. A failure to connect shows at the first `Read`."""

    method: Method[Message, Message]
    message: Message
    timeout_seconds: float | None
    """For the whole stream; None where the server decides when it ends."""


@dataclass(frozen=True, slots=True)
class Read:
    """Answered with the stream's next message, or None at its end."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Offload:
    """Work on files, which must not hold up an event loop. Answered with None."""

    work: Callable[[], None]


Step: TypeAlias = Call | Open | Read | Sleep | Offload
Outcome: TypeAlias = Message | Stream | None

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Item(Generic[T_co]):
    """One of the values that an operation gives while it runs. Answered with None."""

    value: T_co


Operation: TypeAlias = Generator[Step, Outcome, T]
"""Ends with a result."""

ItemT = TypeVar("ItemT")
Iteration: TypeAlias = Generator[Step | Item[ItemT], Outcome, T]
"""Gives items while it runs, then ends with a result."""


ResponseT = TypeVar("ResponseT", bound=Message)


def call(
    method: Method[Message, ResponseT], message: Message, timeout_seconds: float
) -> Operation[ResponseT]:
    """One RPC, once."""
    outcome = yield Call(method, message, timeout_seconds)
    assert isinstance(outcome, method.response)
    return outcome


def open_stream(
    method: Method[Message, Message], message: Message, timeout_seconds: float | None
) -> Operation[Stream]:
    outcome = yield Open(method, message, timeout_seconds)
    assert isinstance(outcome, Stream)
    return outcome


def read(stream: Stream, method: Method[Message, ResponseT]) -> Operation[ResponseT | None]:
    """The stream's next message, or None at its end."""
    outcome = yield Read(stream)
    if outcome is None:
        return None
    assert isinstance(outcome, method.response)
    return outcome
