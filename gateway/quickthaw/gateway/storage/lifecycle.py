"""How long a caller wants a file kept, and who may read it: `X-Fal-Object-Lifecycle`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from quickthaw.gateway.answers import HttpError

Decision = Literal["allow", "forbid", "hide"]

SECONDS_MAX: Final = 10 * 366 * 24 * 3600
RULES_MAX: Final = 100
HEADER_CHARS_MAX: Final = 8192
_DECISIONS: Final = get_args(Decision)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    seconds: float | None = None
    """From upload to expiry; None: as long as the store exists."""
    default: Decision = "allow"
    rules: tuple[tuple[str, Decision], ...] = ()
    """By tenant; the first that fits wins over the default. Owners may always read."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lifecycle:
        rules = tuple((tenant, decision) for tenant, decision in value["rules"])
        return cls(value["seconds"], value["default"], rules)

    @property
    def open_to_all(self) -> bool:
        return {self.default, *(decision for _, decision in self.rules)} == {"allow"}

    def decision(self, tenant: str) -> Decision:
        rules: dict[str, Decision] = dict(reversed(self.rules))
        return rules.get(tenant, self.default)


def read_lifecycle(header: str | None, default_seconds: float | None) -> Lifecycle:
    """Absent or null: kept for `default_seconds`. Raises HttpError 400."""
    if header is None or header.strip() in ("", "null"):
        return Lifecycle(default_seconds)
    if len(header) > HEADER_CHARS_MAX:
        raise _wrong("it is too long")
    try:
        value = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _wrong("it is not JSON") from error
    if not isinstance(value, dict):
        raise _wrong("it is no JSON object")
    given = cast("dict[str, Any]", value)
    acl: Any
    rules: Any
    seconds = given.get("expiration_duration_seconds")
    acl = given.get("initial_acl") or {}
    if not isinstance(acl, dict):
        raise _wrong("initial_acl is no object")
    rules = acl.get("rules") or []
    if not isinstance(rules, list) or len(rules) > RULES_MAX:
        raise _wrong(f"initial_acl.rules is no list of at most {RULES_MAX}")
    return Lifecycle(
        default_seconds if seconds is None else _seconds(seconds),
        _decision(acl.get("default") or "allow"),
        tuple(_rule(rule) for rule in rules),
    )


def _seconds(value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < cast("float", value) <= SECONDS_MAX:
        raise _wrong(f"expiration_duration_seconds must be above 0 and at most {SECONDS_MAX}")
    return float(cast("float", value))


def _decision(value: object) -> Decision:
    if value not in _DECISIONS:
        raise _wrong(f"initial_acl knows {', '.join(_DECISIONS)} only")
    return cast("Decision", value)


def _rule(value: object) -> tuple[str, Decision]:
    rule = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    user = rule.get("user")
    if not isinstance(user, str):
        raise _wrong("each rule of initial_acl has a user and a decision")
    return user, _decision(rule.get("decision"))


def _wrong(what: str) -> HttpError:
    return HttpError(
        400,
        f"X-Fal-Object-Lifecycle (or -Lifecycle-Preference) cannot be followed: {what}",
        "bad_request",
    )
