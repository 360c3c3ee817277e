"""Pictures as requests bring them and as files have them."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image


def data_uri(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def levels(made: torch.Tensor) -> np.ndarray:
    """Of pixels between 0 and 1, (..., channels, height, width), as a file has them: channels last,
    0 to 255."""
    found: np.ndarray = (made.movedim(-3, -1).numpy() * 255).round().astype(int)
    return found
