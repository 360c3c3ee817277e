"""A small picture in a terminal: two pixels a character, upper half and lower half."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = 40
PIXELS_MAX = 4096 * 4096
"""Of what is decoded; a preview is far smaller."""


def half_blocks(data: bytes, columns: int = COLUMNS) -> Text | None:
    """None for what is no picture."""
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > PIXELS_MAX:
                return None
            rows = max(2, round(columns * opened.height / opened.width / 2) * 2)
            picture = opened.convert("RGB").resize((columns, rows))
    except (OSError, ValueError):
        return None
    pixels = picture.tobytes()

    def color(x: int, y: int) -> Color:
        at = (y * columns + x) * 3
        return Color.from_rgb(*pixels[at : at + 3])

    text = Text()
    for y in range(0, rows, 2):
        for x in range(columns):
            text.append("▀", Style(color=color(x, y), bgcolor=color(x, y + 1)))
        text.append("\n")
    return text
