"""Stable Diffusion 1.x and 2.x, and whatever is saved as their pipeline."""

from quickthaw.worker.families.base import MakesPictures


class StableDiffusion(MakesPictures):
    image_to_image = "StableDiffusionImg2ImgPipeline"
    inpainting = "StableDiffusionInpaintPipeline"


FAMILY = StableDiffusion()
