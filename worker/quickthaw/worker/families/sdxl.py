"""Stable Diffusion XL: both text encoders read the same prompt."""

from quickthaw.worker.families.base import MakesPictures


class Sdxl(MakesPictures):
    image_to_image = "StableDiffusionXLImg2ImgPipeline"
    inpainting = "StableDiffusionXLInpaintPipeline"
    encoder_suffixes = ("", "_2")


FAMILY = Sdxl()
