"""The pipeline families that snapshots know."""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.snapshot.families.base import Family
from quickthaw.snapshot.families.chroma import CHROMA
from quickthaw.snapshot.families.flux import FLUX, FLUX_FILL, FLUX_KONTEXT
from quickthaw.snapshot.families.flux2 import FLUX2, FLUX2_KLEIN
from quickthaw.snapshot.families.hunyuan_video import HUNYUAN_VIDEO, HUNYUAN_VIDEO_I2V
from quickthaw.snapshot.families.qwen_image import QWEN_IMAGE, QWEN_IMAGE_EDIT
from quickthaw.snapshot.families.stable_audio import STABLE_AUDIO
from quickthaw.snapshot.families.stable_diffusion import SD, SD3, SD_INPAINT, SDXL, SDXL_INPAINT
from quickthaw.snapshot.families.videos import LTX, SVD
from quickthaw.snapshot.families.wan import WAN, WAN_I2V
from quickthaw.snapshot.families.z_image import Z_IMAGE
from quickthaw.snapshot.format import Problem, invalid

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        SD,
        SD_INPAINT,
        SDXL,
        SDXL_INPAINT,
        SD3,
        FLUX,
        FLUX_KONTEXT,
        FLUX_FILL,
        FLUX2,
        FLUX2_KLEIN,
        CHROMA,
        QWEN_IMAGE,
        QWEN_IMAGE_EDIT,
        Z_IMAGE,
        SVD,
        WAN,
        WAN_I2V,
        LTX,
        HUNYUAN_VIDEO,
        HUNYUAN_VIDEO_I2V,
        STABLE_AUDIO,
    )
}


def family_named(name: str) -> Family:
    if (family := FAMILIES.get(name)) is None:
        invalid(
            Problem.MANIFEST, "family", f"{name!r:.80} is unknown; known: {', '.join(FAMILIES)}"
        )
    return family


def family_of(pipeline_class: str) -> Family:
    """The family that a checked pipeline class path belongs to."""
    owners = {path: family for family in FAMILIES.values() for path in family.pipeline_classes}
    if (family := owners.get(pipeline_class)) is None:
        known = ", ".join(owners)
        invalid(Problem.MANIFEST, "pipeline", f"no family has {pipeline_class}; known: {known}")
    return family
