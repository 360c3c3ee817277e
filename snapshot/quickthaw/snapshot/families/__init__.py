"""Pipeline families: their classes, load order and input schema, one small module for each kind."""

from quickthaw.snapshot.families.base import (
    ANY_FRAMES,
    ANY_SIZE,
    NOTHING_LEARNED,
    Family,
    Learned,
)
from quickthaw.snapshot.families.registry import FAMILIES, family_named, family_of
from quickthaw.snapshot.families.stable_diffusion import SD

__all__ = [
    "ANY_FRAMES",
    "ANY_SIZE",
    "FAMILIES",
    "NOTHING_LEARNED",
    "SD",
    "Family",
    "Learned",
    "family_named",
    "family_of",
]
