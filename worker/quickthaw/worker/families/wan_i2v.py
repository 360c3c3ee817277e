"""Wan 2.1 and 2.2: videos that a picture begins, and may end."""

from quickthaw.worker.families.wan import Wan


class WanImageToVideo(Wan):
    needs = ("image_url",)


FAMILY = WanImageToVideo()
