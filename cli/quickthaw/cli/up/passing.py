"""`--set PART.NAME=VALUE`: options of the parts that `up` has no flag of its own for.

A part checks its options itself and names what is wrong; here is only looked at what would cross
with what `up` says to the parts anyway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from quickthaw.wire.errors import SettingsInvalid

_FORM = re.compile(r"(?P<part>[a-z]+)\.(?P<name>[a-z][a-z0-9-]*)(?P<value>=.*)?", re.DOTALL)

OWN: Mapping[str, Mapping[str, str]] = {
    "scheduler": {
        "data-dir": "--data-dir",
        "grpc": "--grpc",
        "grpc-local": "",
        "tls-cert": "--tls-cert",
        "tls-key": "--tls-key",
        "tls-client-ca": "--tls-client-ca",
        "metrics": "--metrics",
        "store": "--store",
        "blob-store": "--blob-store",
        "prices": "--prices",
        "log-level": "--log-level",
        "scale-down-delay-ms": "--scale-down-delay",
        "new-tenant-credit-nanodollars": "--new-tenant-credit",
    },
    "worker": {
        "scheduler": "",
        "key-file": "",
        "worker-id": "",
        "data-dir": "--data-dir",
        "snapshot-store": "--data-dir",
        "compiled-cache": "--data-dir",
        "blob-store": "--blob-store",
        "metrics": "",
        "device": "--device",
        "vram-bytes": "--vram-bytes",
        "pinned-bytes": "--pinned-bytes",
        "prepare": "",
        "log-level": "--log-level",
        "drain-seconds": "--drain-seconds",
        "compiled": "--compiled",
    },
    "gateway": {
        "scheduler": "",
        "key-file": "",
        "link-secret-file": "",
        "tls-dir": "--data-dir",
        "http": "--http",
        "metrics": "",
        "blob-store": "--blob-store",
        "log-level": "--log-level",
        "drain-seconds": "--drain-seconds",
    },
    "packer": {
        "scheduler": "",
        "key-file": "",
        "blob-store": "--blob-store",
        "snapshots": "--data-dir",
        "work-dir": "--pack-dir",
        "push": "--push",
        "log-level": "--log-level",
    },
}
"""By part, what `up` decides; where it does so by a flag of its own, that flag."""


def passed_on(words: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """The arguments for each part, in order. Raises SettingsInvalid, naming the word."""
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        form = _FORM.fullmatch(word)
        if form is None:
            raise SettingsInvalid(
                f"--set {word!r}: write PART.NAME=VALUE, such as scheduler.queue-max=50000"
            )
        part, name = form["part"], form["name"]
        if part not in OWN:
            raise SettingsInvalid(f"--set {word!r}: the parts are {', '.join(OWN)}")
        # Parsers take the beginning of a name for the name.
        if taken := [own for own in OWN[part] if own.startswith(name)]:
            flag = OWN[part][taken[0]]
            instead = f"use {flag}" if flag else "`up` decides that itself"
            raise SettingsInvalid(f"--set {word!r}: {instead}")
        argument = f"--{name}{form['value'] or ''}"
        found[part] = (*found.get(part, ()), argument)
    return found
