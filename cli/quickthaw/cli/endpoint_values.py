"""`name=value` on the command line as settings of an endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from quickthaw.cli.errors import UsageFault
from quickthaw.client.catalog import ModelEndpoint, Visibility

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "": 1_000}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")


def read_settings(model: str, words: Sequence[str]) -> tuple[ModelEndpoint, tuple[str, ...]]:
    """The settings, and the names of those that were given. Raises UsageFault naming the word."""
    found: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageFault(
                f"{word!r} is no setting", "give settings as name=value, such as min_replicas=1"
            )
        field = f"{name}_ms" if f"{name}_ms" in _READERS else name
        if field not in _READERS:
            known = ", ".join(each.removesuffix("_ms") for each in _READERS)
            raise UsageFault(f"an endpoint has no setting {name!r}", f"there are {known}")
        found[field] = _READERS[field](name, text)
    # The readers' types are the fields'; which one is read is known by its name alone.
    return ModelEndpoint(model, **found), tuple(found)  # type: ignore[arg-type]


def _count(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UsageFault(f"{name}={text} is no count", "give a whole number, 0 or more")
    return int(text)


def _span_ms(name: str, text: str) -> int:
    matched = _SPAN.fullmatch(text)
    if matched is None:
        raise UsageFault(f"{name}={text} is no time", "give one such as 500ms, 30s, 5m or 2h")
    return round(float(matched[1]) * _UNITS_MS[matched[2]])


def _visibility(name: str, text: str) -> Visibility:
    known = [each.value for each in Visibility if each is not Visibility.UNKNOWN]
    if text not in known:
        raise UsageFault(f"{name}={text} is none", f"choose one of {', '.join(known)}")
    return Visibility(text)


def _labels(name: str, text: str) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        label, equals, value = part.partition("=")
        if not equals:
            raise UsageFault(f"{name}: {part!r} is no label", "give labels as gpu=h100,zone=b")
        labels[label] = value
    return labels


_READERS: Mapping[str, Callable[[str, str], object]] = {
    "visibility": _visibility,
    "owner_tenant": lambda _, text: text,
    "min_replicas": _count,
    "max_replicas": _count,
    "buffer": _count,
    "scale_up_delay_ms": _span_ms,
    "scale_down_delay_ms": _span_ms,
    "keep_alive_ms": _span_ms,
    "concurrency_max": _count,
    "reserved_workers": _count,
    "worker_labels": _labels,
}
