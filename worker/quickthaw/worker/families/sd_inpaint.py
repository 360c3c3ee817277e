"""Stable Diffusion whose denoiser reads the mask and what it leaves of the picture."""

from quickthaw.worker.families.sd import StableDiffusion


class StableDiffusionInpaint(StableDiffusion):
    needs = ("image_url", "mask_url")


FAMILY = StableDiffusionInpaint()
