"""Stable Diffusion XL, likewise as `sd_inpaint`."""

from quickthaw.worker.families.sdxl import Sdxl


class SdxlInpaint(Sdxl):
    needs = ("image_url", "mask_url")


FAMILY = SdxlInpaint()
