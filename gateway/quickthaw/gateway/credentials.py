"""Whose call it is: the key that came with it."""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.gateway.platform import Credential
from quickthaw.wire.errors import Unauthenticated

KEY_CHARS_MAX = 512


def read_credential(headers: Mapping[str, str]) -> Credential:
    """The caller's key for the scheduler, which alone decides whether it is good.

    `headers` finds names in any case. Raises Unauthenticated for what no key looks like; no header
    at all is passed on as none, since a scheduler may run with authorization off.
    """
    value = headers.get("authorization", "").strip()
    if not value:
        return Credential("")
    scheme, _, key = value.partition(" ")
    key = key.strip()
    if scheme.lower() not in ("key", "bearer") or not key:
        raise Unauthenticated("the Authorization header is `Key <key>` or `Bearer <key>`")
    if len(key) > KEY_CHARS_MAX or not (key.isascii() and key.isprintable()) or " " in key:
        raise Unauthenticated("that is no key: keys look like qt_<id>_<secret>")
    return Credential(f"Key {key}")
