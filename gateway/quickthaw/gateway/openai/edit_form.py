"""The forms of edits and variations: a picture, perhaps a mask, and everything else as text."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Mapping

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

from quickthaw.gateway.bodies import read_body
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.openai.errors import invalid
from quickthaw.gateway.settings import Limits

FIELDS_MAX = 64
FILES_MAX = 17
VARIATION_PROMPT = "a picture"
"""Models want some words; these say as little as any."""
VARIATION_STRENGTH = 0.6
"""How much is drawn anew: what is seen stays, how it is drawn does not."""
_IMAGES = ("image", "image[]")


async def read_edit(request: Request, gateway: Gateway) -> JsonObject:
    """The fields as a JSON body would have them, but for numbers, which are texts; `image_url` and
    perhaps `image_urls` and `mask_url` are in them.

    Raises HttpError 400, naming the parameter, and Unauthenticated: decoding a mask costs too much
    for who has no key.
    """
    limits = gateway.limits
    body = await read_body(request, limits)

    async def once() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, once).form(
            max_files=FILES_MAX, max_fields=FIELDS_MAX, max_part_size=limits.body_bytes_max
        )
    except MultiPartException as error:
        raise invalid(f"the body is no multipart form: {error.message}", None) from error
    try:
        texts: dict[str, Json] = {
            name: value for name, value in form.items() if isinstance(value, str)
        }
        images = [each for name in _IMAGES for each in form.getlist(name)]
        files = [each for each in images if isinstance(each, UploadFile)]
        if not files or len(files) < len(images):
            raise invalid("send a picture to begin with, as a file", "image")
        first, *more = [_data_uri(await each.read()) for each in files]
        texts["image_url"] = first
        if more:
            texts["image_urls"] = [*more]
        if (mask := _mask(form)) is not None:
            await gateway.platform.tenant(read_credential(request.headers))
            async with gateway.inputs.decoding:
                texts["mask_url"] = await asyncio.to_thread(_painted, await mask.read(), limits)
    finally:
        await form.close()
    return {name: value for name, value in texts.items() if name not in _IMAGES}


def _mask(form: FormData) -> UploadFile | None:
    """Raises HttpError 400 for one that is no file, and for files that nothing here looks at: a
    picture drawn as if they had not been sent is not what was asked for."""
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name not in (*_IMAGES, "mask"):
            raise invalid("no model here takes such a file: leave it out", name)
    masks = form.getlist("mask")
    if not masks:
        return None
    if len(masks) > 1 or not isinstance(masks[0], UploadFile):
        raise invalid("send one mask, as a file", "mask")
    return masks[0]


async def read_variation(request: Request, gateway: Gateway) -> JsonObject:
    """As `read_edit`: a variation is an edit without a prompt that keeps some of the picture
    everywhere, and its pictures are links unless something else is asked for."""
    given = await read_edit(request, gateway)
    if "mask_url" in given:
        raise invalid("a variation takes no mask: edit the picture instead", "mask")
    defaults: JsonObject = {
        "prompt": VARIATION_PROMPT,
        "strength": VARIATION_STRENGTH,
        "response_format": "url",
    }
    return {**defaults, **given, "stream": False}


def edits_pictures(properties: Mapping[str, Json], *, masked: bool) -> bool:
    return {"image_url", *(("mask_url",) if masked else ())} <= properties.keys()


def _painted(data: bytes, limits: Limits) -> str:
    """White where the mask is transparent, which is what is to be drawn anew; black elsewhere."""
    try:
        mask = Image.open(io.BytesIO(data), formats=("PNG", "WEBP"))
        if mask.width * mask.height > limits.input_pixels_max:
            raise invalid(f"the mask has over {limits.input_pixels_max} pixels", "mask")
        if not mask.has_transparency_data:
            raise invalid("the mask has no transparency, which says what to draw anew", "mask")
        alpha = mask.convert("RGBA").getchannel("A")
    except UnidentifiedImageError as error:
        raise invalid("the mask is none of PNG and WEBP", "mask") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise invalid(f"the mask is no picture that can be read: {error}", "mask") from error
    painted = io.BytesIO()
    alpha.point([255 - value for value in range(256)]).save(painted, "PNG")
    return _data_uri(painted.getvalue())


def _data_uri(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()
