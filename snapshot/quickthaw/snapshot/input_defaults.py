"""The defaults of a model's input: checked, since one that no request could give fails them all."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.format import Problem, invalid


def check_defaults(schema: Mapping[str, Any]) -> None:
    """Raises `SnapshotInvalid` for a default that its own rule refuses."""
    for name, rule in schema["properties"].items():
        if "default" in rule:
            validator = jsonschema_rs.Draft202012Validator(rule)
            for error in validator.iter_errors(rule["default"]):
                invalid(Problem.MANIFEST, f"defaults.{name}", error.message)


def with_defaults(
    schema: Mapping[str, JsonValue], defaults: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """A copy of an input schema with other defaults, checked."""
    changed: dict[str, Any] = copy.deepcopy(dict(schema))
    required = changed.get("required", ())
    for name, value in defaults.items():
        if name in required or name not in changed["properties"]:
            known = ", ".join(key for key in changed["properties"] if key not in required)
            invalid(Problem.MANIFEST, f"defaults.{name}", f"this model takes only: {known}")
        changed["properties"][name]["default"] = value
    check_defaults(changed)
    return changed
