"""Snapshots of diffusion pipelines: pack once, load at the speed of the hardware.

`FORMAT.md` beside this file is the byte layout. The functions that share a name with their module
are imported from there: `pack.pack`, `verify.verify`, `plan.plan`. Names that need torch are
imported when first used, so that inspecting and verifying stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from quickthaw.snapshot.families import FAMILIES, Family, family_named
from quickthaw.snapshot.inspect import describe, locate
from quickthaw.snapshot.manifest import Component, Kind, Manifest, Preview
from quickthaw.snapshot.plan import LoadPlan
from quickthaw.snapshot.reader import Snapshot, StoreReader
from quickthaw.snapshot.report import ComponentReport, LoadProgress, LoadReport
from quickthaw.snapshot.slab import Slab
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.tiers import Residency, Tier

if TYPE_CHECKING:
    from quickthaw.snapshot.cuda import CudaDevice
    from quickthaw.snapshot.device import CpuDevice, Device
    from quickthaw.snapshot.load import Loader
    from quickthaw.snapshot.loaded import LoadedModel

__all__ = [
    "FAMILIES",
    "Component",
    "ComponentReport",
    "CpuDevice",
    "CudaDevice",
    "Device",
    "Family",
    "Kind",
    "LoadPlan",
    "LoadProgress",
    "LoadReport",
    "LoadedModel",
    "Loader",
    "Manifest",
    "Preview",
    "Residency",
    "Slab",
    "Snapshot",
    "SnapshotStore",
    "StoreReader",
    "Tier",
    "describe",
    "family_named",
    "locate",
]

_LAZY = {
    "CpuDevice": "device",
    "CudaDevice": "cuda",
    "Device": "device",
    "LoadedModel": "loaded",
    "Loader": "load",
}


def __getattr__(name: str) -> Any:
    if (module := _LAZY.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
