"""Whether there is anything on what a self-test made: weights that overflow in their type make
pictures of one colour and sounds of nothing, and no error."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping
from io import BytesIO

from quickthaw.wire.errors import EngineFailed

_NOISE = 4
"""Steps of 256 that an encoder may make of one colour."""


def check_output(
    content: bytes, content_type: str, dtype: str = "dtype ", otherwise: str = ""
) -> None:
    """Raises EngineFailed, which says `dtype` before the types to try, and at its end what can be
    done otherwise. What is neither picture, video nor sound passes."""
    kind = content_type.partition("/")[0]
    what, is_empty = _KINDS.get(kind, ("", lambda _: False))
    if not is_empty(content):
        return
    raise EngineFailed(
        f"the self-test's {what}: the weights may overflow in their type "
        f"(try {dtype}bfloat16 or float32) or be for another base{otherwise}"
    )


def _is_plain_picture(content: bytes) -> bool:
    from PIL import Image

    with Image.open(BytesIO(content)) as picture:
        # The colours if there are no more than that, else None.
        return picture.convert("RGB").getcolors(maxcolors=1) is not None


def _is_plain_video(content: bytes) -> bool:
    """Every frame alike. Where nothing here can read videos, none is."""
    try:
        import av
    except ImportError:
        return False
    with av.open(BytesIO(content), "r") as file:
        for frame in file.decode(video=0):
            levels = frame.to_ndarray(format="gray")
            if int(levels.max()) - int(levels.min()) > _NOISE:
                return False
    return True


def _is_silence(content: bytes) -> bool:
    """Of a WAV file; others are taken to be heard."""
    try:
        with wave.open(BytesIO(content)) as file:
            return not any(file.readframes(file.getnframes()))
    except (wave.Error, EOFError):
        return False


_KINDS: Mapping[str, tuple[str, Callable[[bytes], bool]]] = {
    "image": ("picture has one colour only", _is_plain_picture),
    "video": ("video shows one colour only", _is_plain_video),
    "audio": ("sound is silence", _is_silence),
}
