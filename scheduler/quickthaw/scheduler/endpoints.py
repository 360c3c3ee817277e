"""The settings by which models are served: merged with what was, and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from quickthaw.scheduler.core.model import EndpointSettings, Visibility
from quickthaw.scheduler.keys import check_tenant
from quickthaw.wire import errors

SETTING_NAMES = tuple(each.name for each in fields(EndpointSettings))
REPLICAS_MAX = 10_000
CONCURRENCY_MAX = 1_000_000
DELAY_MS_MAX = 86_400_000
LABELS_MAX = 16
LABEL_CHARS_MAX = 200
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
BOUNDS: Mapping[str, int] = {
    "min_replicas": REPLICAS_MAX,
    "max_replicas": REPLICAS_MAX,
    "buffer": REPLICAS_MAX,
    "scale_up_delay_ms": DELAY_MS_MAX,
    "scale_down_delay_ms": DELAY_MS_MAX,
    "keep_alive_ms": DELAY_MS_MAX,
    "concurrency_max": CONCURRENCY_MAX,
    "reserved_workers": REPLICAS_MAX,
}
"""The most that each setting that is a number may be."""


def merged(
    before: EndpointSettings, wanted: EndpointSettings, names: tuple[str, ...]
) -> EndpointSettings:
    """`before` with the named settings as in `wanted`; all of them if none is named. Raises
    InvalidArgument for a name that is no setting."""
    unknown = [name for name in names if name not in SETTING_NAMES]
    if unknown:
        raise _refused(
            [
                errors.FieldViolation(
                    "names", f"{name[:64]!r} is no setting; there are {', '.join(SETTING_NAMES)}"
                )
                for name in unknown[:8]
            ]
        )
    # Names of fields, whose types are those of the same class.
    changed: dict[str, Any] = {name: getattr(wanted, name) for name in names or SETTING_NAMES}
    return replace(before, **changed)


def check_endpoint(settings: EndpointSettings) -> None:
    """Raises InvalidArgument that names every setting that is wrong, and says how."""
    wrong: list[errors.FieldViolation] = []

    def require(holds: bool, name: str, description: str) -> None:
        if not holds:
            wrong.append(errors.FieldViolation(f"endpoint.{name}", description))

    for name, limit in BOUNDS.items():
        value: int = getattr(settings, name)
        require(0 <= value <= limit, name, f"must be 0 to {limit}, not {value}")
    most = settings.max_replicas
    require(
        not most or settings.min_replicas <= most,
        "min_replicas",
        f"is {settings.min_replicas}, more than max_replicas, which is {most}",
    )
    shared = settings.visibility is Visibility.SHARED
    require(
        shared or bool(settings.owner_tenant),
        "owner_tenant",
        f"is required for a {settings.visibility.value} endpoint: the tenant that may call it",
    )
    if settings.owner_tenant:
        try:
            check_tenant(settings.owner_tenant)
        except errors.InvalidArgument as error:
            require(False, "owner_tenant", error.message)
    require(
        settings.dedicated or not (settings.reserved_workers or settings.worker_labels),
        "reserved_workers",
        "and worker_labels need visibility=dedicated: only a dedicated endpoint has workers of "
        "its own",
    )
    require(
        not settings.dedicated or settings.reserved_workers >= 1,
        "reserved_workers",
        "must be at least 1 for a dedicated endpoint",
    )
    _check_labels(settings.worker_labels, require)
    if wrong:
        raise _refused(wrong)


def _check_labels(labels: Mapping[str, str], require: Any) -> None:
    require(len(labels) <= LABELS_MAX, "worker_labels", f"must be at most {LABELS_MAX}")
    for name, value in labels.items():
        require(
            _LABEL_NAME.fullmatch(name) is not None and len(name) <= LABEL_CHARS_MAX,
            "worker_labels",
            f"has no label name {name[:64]!r}: letters, digits, '.', '_', '-' and '/'",
        )
        require(
            len(value) <= LABEL_CHARS_MAX and value.isprintable(),
            "worker_labels",
            f"value of {name[:64]!r} must be at most {LABEL_CHARS_MAX} printable characters",
        )


def _refused(wrong: list[errors.FieldViolation]) -> errors.InvalidArgument:
    told = "; ".join(f"{each.field.removeprefix('endpoint.')} {each.description}" for each in wrong)
    return errors.InvalidArgument(
        f"the endpoint cannot be set: {told}", violations=tuple(wrong), metadata={}
    )
