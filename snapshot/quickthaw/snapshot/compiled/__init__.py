"""Compiled code of models' repeated blocks, kept beside snapshots and bound to their bytes."""

from quickthaw.snapshot.compiled.blocks import CompiledBlocks, Missing, Usage
from quickthaw.snapshot.compiled.builder import BuildOutcome, BuildPlace, build_missing
from quickthaw.snapshot.compiled.cache import CompiledCache
from quickthaw.snapshot.compiled.seal import Untrusted

__all__ = [
    "BuildOutcome",
    "BuildPlace",
    "CompiledBlocks",
    "CompiledCache",
    "Missing",
    "Untrusted",
    "Usage",
    "build_missing",
]
