"""The port for places that hold a store's files elsewhere, and how patient we are with them.

A remote has the layout of a store (FORMAT.md §1), so everything in it but the manifests is named by
its content: whatever it sends can be checked, and nothing that it sends is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.wire.errors import SettingsInvalid

_RANGE_BYTES_MAX = 256 * 1024 * 1024


class RangesUnsupported(Exception):
    """The server sends whole files only. Raised by remotes, answered inside this package."""


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """Every bound of talking to a remote.

    `read_seconds` is silence on a connection, `request_seconds` one range however slowly it drips.
    A range that fails is asked for again from the byte it had come to, `retries` times, after
    `backoff_seconds` that double up to `backoff_cap_seconds`, and for `retry_seconds` at most.
    `parallel` ranges of `range_bytes` (whole blocks) are in flight at once.
    """

    endpoint: str | None = None
    """Of an S3-compatible server; None for AWS."""
    region: str | None = None
    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    request_seconds: float = 120.0
    retries: int = 5
    backoff_seconds: float = 0.1
    backoff_cap_seconds: float = 5.0
    retry_seconds: float = 120.0
    avoid_seconds: float = 30.0
    """How long a place that failed is passed over where there is another."""
    parallel: int = 8
    range_bytes: int = 4 * BLOCK_BYTES

    def __post_init__(self) -> None:
        if self.range_bytes % BLOCK_BYTES or not 0 < self.range_bytes <= _RANGE_BYTES_MAX:
            raise SettingsInvalid(
                f"a remote's range of {self.range_bytes} bytes must be a multiple of {BLOCK_BYTES} "
                f"up to {_RANGE_BYTES_MAX}"
            )
        if not 1 <= self.parallel <= 256 or self.retries < 0:
            raise SettingsInvalid("a remote needs 1 to 256 ranges in parallel and no fewer retries")

    def from_environment(self, environment: Mapping[str, str]) -> RemoteSettings:
        """These with the endpoint and region that AWS' own tools would take from `environment`.

        Credentials are not settings: the object store's library takes them from the environment
        (`AWS_ACCESS_KEY_ID`, web identity, instance metadata...), so that we never hold them.
        """
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        return replace(self, endpoint=self.endpoint or endpoint, region=self.region or region)


class Remote(Protocol):
    """A store elsewhere. Thread-safe; paths are relative, as in `Manifest.files`."""

    @property
    def name(self) -> str:
        """Its URL as it may be shown: without credentials."""
        ...

    @property
    def kind(self) -> str:
        """`remote`, or `peer` for another worker."""
        ...

    def read_small(self, path: str, bytes_max: int) -> bytes:
        """A whole file. Raises `NotFound`, `PermissionDenied`, `StoreUnavailable`, and
        `SnapshotInvalid` if it is larger than `bytes_max`."""
        ...

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        """Fills `target` from byte `start` of a file; returns how many bytes, fewer only where the
        file ends. Releases the GIL while it waits. Raises `NotFound`, `PermissionDenied`,
        `StoreUnavailable` after its retries, `RangesUnsupported` if only whole files can be had."""
        ...

    def close(self) -> None:
        """Gives idle connections back."""
        ...
