"""Flux Fill: draws what a mask shows so that it fits the rest of the picture."""

from quickthaw.worker.families.flux import Flux


class FluxFill(Flux):
    needs = ("image_url", "mask_url")


FAMILY = FluxFill()
