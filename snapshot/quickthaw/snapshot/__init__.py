"""Snapshots of diffusion pipelines: pack once, load at the speed of the hardware.

`FORMAT.md` beside this file is the byte layout. The functions that share a name with their module
are imported from there: `pack.pack`, `verify.verify`, `plan.plan`. Names that need torch are
imported when first used, so that inspecting and verifying stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from quickthaw.snapshot.families import FAMILIES as FAMILIES
from quickthaw.snapshot.families import Family as Family
from quickthaw.snapshot.families import family_named as family_named
from quickthaw.snapshot.inspect import describe as describe
from quickthaw.snapshot.inspect import locate as locate
from quickthaw.snapshot.manifest import Component as Component
from quickthaw.snapshot.manifest import Kind as Kind
from quickthaw.snapshot.manifest import Manifest as Manifest
from quickthaw.snapshot.manifest import Preview as Preview
from quickthaw.snapshot.plan import LoadPlan as LoadPlan
from quickthaw.snapshot.report import ComponentReport as ComponentReport
from quickthaw.snapshot.report import LoadProgress as LoadProgress
from quickthaw.snapshot.report import LoadReport as LoadReport
from quickthaw.snapshot.slab import Slab as Slab
from quickthaw.snapshot.store import Snapshot as Snapshot
from quickthaw.snapshot.store import SnapshotStore as SnapshotStore
from quickthaw.snapshot.tiers import Residency as Residency
from quickthaw.snapshot.tiers import Tier as Tier

if TYPE_CHECKING:
    from quickthaw.snapshot.cuda import CudaDevice as CudaDevice
    from quickthaw.snapshot.device import CpuDevice as CpuDevice
    from quickthaw.snapshot.device import Device as Device
    from quickthaw.snapshot.load import Loader as Loader
    from quickthaw.snapshot.loaded import LoadedModel as LoadedModel

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
