"""Answers that say what went wrong, before they are bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Detail: TypeAlias = "str | Sequence[Mapping[str, object]]"
"""A text, or a list of `loc`, `msg`, `type` items where arguments are at fault."""

NO_ROUTE: Final = "nothing is served at this path"


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    status: int
    detail: Detail
    error_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def text(self) -> str:
        """For a person, in one line."""
        if isinstance(self.detail, str):
            return self.detail
        return "; ".join(map(item_text, self.detail))


def item_text(item: Mapping[str, object]) -> str:
    """What is wrong, and with what: `image_size.width: ...`."""
    location = item.get("loc")
    path = ".".join(map(str, location[1:])) if isinstance(location, list) else ""
    return f"{path}: {item.get('msg')}" if path else str(item.get("msg"))


def retryable_headers(*, retryable: bool) -> dict[str, str]:
    """Whether a model's error may pass if the call is repeated, in both spellings of the vendor."""
    text = "true" if retryable else "false"
    return {"x-fal-retryable": text, "x-fal-needs-retry": text}


class HttpError(Exception):
    """Carries the answer to a request that cannot go on."""

    def __init__(
        self,
        status: int,
        detail: Detail,
        error_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.answer = ErrorAnswer(status, detail, error_type, headers or {})
        super().__init__(self.answer.text)


class ClientGone(Exception):
    """The caller closed its connection before it had its answer."""
