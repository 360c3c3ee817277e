"""Endpoint ids, `[namespace/]owner/alias[/path]`, and the part of one that names a queue."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.surfaces import RESERVED

ID_CHARS_MAX = 200
REQUEST_ID_CHARS_MAX = 128
_NAMESPACES = frozenset({"workflows", "comfy"})
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUMBERED = re.compile(r"(\d+)-([A-Za-z0-9][A-Za-z0-9-]*)")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class EndpointId:
    namespace: str | None
    owner: str
    alias: str
    path: tuple[str, ...] = ()

    @property
    def app(self) -> str:
        """What status, result and cancel are addressed by, whatever path was submitted to."""
        return "/".join(filter(None, (self.namespace, self.owner, self.alias)))

    @property
    def full(self) -> str:
        return "/".join((self.app, *self.path))

    def __str__(self) -> str:
        return self.full


def parse_endpoint_id(text: str) -> EndpointId:
    """Raises HttpError 404 for what can be no endpoint: to a caller it is an unknown one."""
    endpoint = try_endpoint_id(text)
    if endpoint is None:
        raise HttpError(
            404,
            f"{text[:ID_CHARS_MAX]!r} is no endpoint id: it is OWNER/NAME or OWNER/NAME/VARIANT",
            "not_found",
        )
    return endpoint


def try_endpoint_id(text: str) -> EndpointId | None:
    segments = text.strip("/").split("/")
    if len(text) > ID_CHARS_MAX or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return None
    if len(segments) == 1:
        if (numbered := _NUMBERED.fullmatch(segments[0])) is None:
            return None
        segments = list(numbered.groups())
    namespace = segments.pop(0) if segments[0] in _NAMESPACES and len(segments) > 2 else None
    owner, alias, *path = segments
    if owner.lower() in RESERVED:
        return None
    return EndpointId(namespace, owner, alias, tuple(path))


def parse_request_id(text: str) -> str:
    """Raises HttpError 404 for what can be no request's id."""
    if len(text) > REQUEST_ID_CHARS_MAX or not _REQUEST_ID.fullmatch(text):
        raise HttpError(404, "no such request", "not_found")
    return text
