"""Pictures that a request brings: small ones inside it, others in the blob store.

Nothing is fetched from the network here: gateways do that, where what a stranger names is judged,
and leave the picture, whose size they bound, in the store under an unguessable name
(`blob:inputs/<name>`).
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker.inputs import PictureUrls

ReadBlob = Callable[[str], bytes]
"""A blob by its key; blocks. Raises FileNotFoundError."""

PIXELS_MAX: Final = 64 * 1024 * 1024
# Once for the process: filters belong to all threads, and runs read pictures at the same time.
warnings.simplefilter("error", Image.DecompressionBombWarning)
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_SEVERAL: Final = "image_urls"
"""Named without a place: callers' lists may have the first picture in them, too."""
_STORED: Final = re.compile(r"blob:(inputs/[A-Za-z0-9_-]{43})")
_INLINE: Final = re.compile(r"data:[a-z0-9.+/-]{0,100}(?:;[a-z0-9=-]{1,40})?;base64,")


@dataclass(frozen=True, slots=True)
class Pictures:
    image: Image.Image
    """RGB, of the size that is drawn."""
    mask: Image.Image | None
    """Grey, of the same size: white is drawn anew, black is kept."""
    end: Image.Image | None = None
    """RGB, of the same size: what a video ends with."""
    more: tuple[Image.Image, ...] = ()
    """RGB, each of its own size: what is looked at beside the first."""


def refuse_blobs(key: str) -> bytes:
    raise FileNotFoundError(key)


def open_pictures(
    urls: PictureUrls, size: tuple[int, int] | None, read_blob: ReadBlob
) -> Pictures | None:
    """Scaled to `size`, or to that of the picture to begin with. None for a request without a
    picture. Raises InvalidInput, naming the field."""
    if not urls.image:
        if urls.mask:
            raise _wrong("mask_url", "needs an image_url: it says which part of that is drawn anew")
        if urls.end:
            raise _wrong("end_image_url", "needs an image_url: the video leads from one to another")
        return None
    first = _open("image_url", urls.image, read_blob)
    size = size or first.size
    mask, end = None, None
    if urls.mask:
        mask = _scaled(_flat(_open("mask_url", urls.mask, read_blob)), size).convert("L")
    if urls.end:
        end = _opaque(_scaled(_open("end_image_url", urls.end, read_blob), size))
    more = tuple(_beside(first, urls.more, read_blob))
    return Pictures(_opaque(_scaled(first, size)), mask, end, more)


def _beside(first: Image.Image, urls: Sequence[str], read_blob: ReadBlob) -> Iterator[Image.Image]:
    """Those beside the first, which all together are no larger than one may be."""
    pixels = first.width * first.height
    for url in urls:
        picture = _open(_SEVERAL, url, read_blob)
        pixels += picture.width * picture.height
        if pixels > PIXELS_MAX:
            raise _wrong(_SEVERAL, f"names pictures of over {PIXELS_MAX} pixels, all together")
        yield _opaque(picture)


def _opaque(picture: Image.Image) -> Image.Image:
    return _flat(picture).convert("RGB")


def _open(field: str, url: str, read_blob: ReadBlob) -> Image.Image:
    data = _bytes(field, url, read_blob)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > PIXELS_MAX:
            raise _wrong(field, f"is a picture of over {PIXELS_MAX} pixels")
        picture.load()
        return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise _wrong(field, f"is no picture that can be read: {str(error)[:200]}") from error


def _bytes(field: str, url: str, read_blob: ReadBlob) -> bytes:
    if (stored := _STORED.fullmatch(url)) is not None:
        try:
            return read_blob(stored[1])
        except FileNotFoundError as error:
            raise _wrong(field, "is not kept any more; send the picture again") from error
    if (head := _INLINE.match(url[:200])) is not None:
        try:
            return base64.b64decode(url[head.end() :], validate=True)
        except binascii.Error as error:
            raise _wrong(field, f"is a data: URI that is no base64: {error}") from error
    raise _wrong(
        field,
        "is a URL, which workers do not fetch: send the request through a gateway, or the picture "
        "as data:image/png;base64,...",
    )


def _flat(picture: Image.Image) -> Image.Image:
    """What is transparent becomes white."""
    if not picture.has_transparency_data:
        return picture
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture.convert(mode).resize(size, Image.Resampling.LANCZOS)


def _wrong(field: str, description: str) -> InvalidInput:
    place = f"input.{field}"
    return InvalidInput(f"{place} {description}", violations=(FieldViolation(place, description),))
