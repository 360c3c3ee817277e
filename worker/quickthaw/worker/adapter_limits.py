"""How much the LoRAs of requests may take up on a worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    file_bytes_max: int = 2 << 30
    """Of one file, as it comes and in the type of its base."""
    kept_bytes_max: int = 1 << 30
    """Of those that are kept in host memory for the next request, as they were read."""
    device_bytes_max: int = 512 << 20
    """Of those that are kept on a device with memory of its own."""
