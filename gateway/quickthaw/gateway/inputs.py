"""Files that a request's arguments name: fetched, looked at, and left where workers can read them.

Arguments called `..._url` of a model whose schema has them, and those in lists called `..._urls`,
may be `http(s)://` URLs, links to files of this gateway, and `data:` URIs. What comes is bounded
before and while it is read, must be a picture of a known format and a bearable size, and goes to
the blob store under a name that only its bytes and its sender lead to. Workers fetch nothing. (Of
`loras` see `loras.py`.)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import io
import re
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import unquote, urlsplit

from PIL import Image, UnidentifiedImageError

from quickthaw.gateway import loras
from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.links import Links
from quickthaw.gateway.loras import Loras, OwnFile
from quickthaw.gateway.outbound import Outbound, OutboundError, OutboundLimits, OutboundTooLarge
from quickthaw.gateway.platform import Credential, Platform
from quickthaw.gateway.ranges import ByteRange
from quickthaw.gateway.settings import Limits
from quickthaw.gateway.storage import Uploads
from quickthaw.wire.errors import ArtifactNotFound

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
KIND: Final = "input"
INLINE_BYTES_MAX: Final = 512 * 1024
"""Of pictures inside an input, where there is no blob store."""
_LARGE: Final = "image_too_large"
_REDIRECTS_MAX: Final = 5
_DATA: Final = re.compile(r"data:[A-Za-z0-9.+/-]{0,100}(?:;[A-Za-z0-9=.-]{1,40})*;base64,")
_OWN_HOST: Final = re.compile(r"(?:[a-z0-9-]+\.)*fal\.media")
_FIRST: Final = "image_url"
"""Whose size is drawn."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(slots=True)
class Inputs:
    limits: Limits
    platform: Platform
    links: Links
    own_credential: Credential
    uploads: Uploads | None
    outbound: Outbound
    public_url: str
    secret: bytes
    loras: Loras
    decoding: asyncio.Semaphore = field(init=False)
    """To be held by whoever decodes a picture: that takes a thread and some bytes a pixel."""

    def __post_init__(self) -> None:
        self.decoding = asyncio.Semaphore(self.limits.inputs_decoded_max)
        if self.uploads is not None:
            self.uploads.expiry.judge(KIND, self._judge)

    async def bring(
        self, credential: Credential, given: Mapping[str, Json], properties: Mapping[str, Json]
    ) -> JsonObject:
        """The arguments with each file replaced by where a worker finds it.

        Raises HttpError 422 in fal's words for a file that cannot be had or used.
        """
        brought = dict(given)
        if loras.ARGUMENT in given and loras.ARGUMENT in properties:
            own = partial(self._own_file, credential)
            brought[loras.ARGUMENT] = await self.loras.bring(given[loras.ARGUMENT], own)
        sizes: dict[str, tuple[int, int]] = {}
        for name, value in given.items():
            if name not in properties:
                continue
            if name.endswith("_url") and isinstance(value, str) and value:
                brought[name], sizes[name] = await self._picture(credential, name, value)
            elif name.endswith("_urls") and isinstance(value, list):
                brought[name] = await self._pictures(credential, name, value)
        if sizes and not _decides_by_itself(properties.get("image_size")):
            size = sizes.get(_FIRST) or next(iter(sizes.values()))
            brought.setdefault("image_size", _fitting(size, properties["image_size"]))
        return brought

    async def _picture(
        self, credential: Credential, name: str, url: str
    ) -> tuple[str, tuple[int, int]]:
        """Where a worker finds it, and its width and height."""
        data = await self._data(credential, name, url)
        size = await self._look_at(name, data)
        return await self._leave(credential, name, data), size

    async def _pictures(self, credential: Credential, name: str, urls: list[Json]) -> list[Json]:
        """What is no URL is left for the schema to refuse."""
        most = self.limits.input_pictures_max
        if len(urls) > most:
            text = f"List should have at most {most} items, not {len(urls)}"
            raise _wrong(name, text, "sequence_too_long", {"max_length": most})
        return [
            (await self._picture(credential, name, url))[0] if isinstance(url, str) and url else url
            for url in urls
        ]

    # ---- where it comes from -------------------------------------------------------------------

    async def _data(self, credential: Credential, name: str, url: str) -> bytes:
        bytes_max = self.limits.input_file_bytes_max
        if (head := _DATA.match(url[:300])) is not None:
            if (len(url) - head.end()) * 3 // 4 > bytes_max + 2:
                raise _too_large(name, bytes_max)
            try:
                data = base64.b64decode(url[head.end() :], validate=True)
            except binascii.Error as error:
                raise _unreadable(name, f"it is a data: URI that is no base64: {error}") from error
            if len(data) > bytes_max:
                raise _too_large(name, bytes_max)
            return data
        if (path := self._own_path(url)) is not None:
            return await self._own(credential, name, path)
        limits = OutboundLimits(bytes_max, self.limits.input_seconds, _REDIRECTS_MAX)
        try:
            answer = await self.outbound.request("GET", url, limits)
        except OutboundTooLarge as error:
            raise _too_large(name, bytes_max) from error
        except OutboundError as error:
            raise _not_had(name, str(error)) from error
        if answer.status != 200:
            raise _not_had(name, f"the answer was {answer.status}")
        return answer.body

    def _own_path(self, url: str) -> str | None:
        """What is behind `/files/` of a link to a file of ours; None for any other URL."""
        if url.startswith(f"{self.public_url}/files/"):
            return urlsplit(url.removeprefix(f"{self.public_url}/files/")).path
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            if _OWN_HOST.fullmatch(parts.hostname or "") and parts.path.startswith("/files/"):
                return parts.path.removeprefix("/files/")
        return None

    async def _own(self, credential: Credential, name: str, path: str) -> bytes:
        file = await self._found(credential, name, path)
        try:
            return await self._whole(name, file.read())
        except ArtifactNotFound as error:
            raise _not_had(name, "there is no such file here (any more)") from error

    async def _own_file(self, credential: Credential, name: str, url: str) -> OwnFile | None:
        path = self._own_path(url)
        return None if path is None else await self._found(credential, name, path)

    async def _found(self, credential: Credential, name: str, path: str) -> OwnFile:
        """A file of ours that the caller may read. Raises HttpError."""
        first, _, rest = path.partition("/")
        try:
            if "/" in rest:
                uri = self.links.uri(first, unquote(rest))
                return OwnFile(uri, 0, lambda: self._artifact(uri))
            if self.uploads is None:
                raise ArtifactNotFound("there is no such file")
            stored = await self.uploads.find(first)
            if stored.lifecycle.default != "allow" or stored.lifecycle.rules:
                tenant = await self.platform.tenant(credential)
                if tenant != stored.tenant and stored.lifecycle.decision(tenant) != "allow":
                    raise ArtifactNotFound("there is no such file")
            span = ByteRange(0, stored.size_bytes)
            read = partial(self.uploads.read, stored, span)
            return OwnFile(stored.file_id, stored.size_bytes, read)
        except ArtifactNotFound as error:
            raise _not_had(name, "there is no such file here (any more)") from error

    async def _artifact(self, uri: str) -> AsyncIterator[bytes]:
        async for part in self.platform.read_artifact(self.own_credential, uri):
            yield part.data

    async def _whole(self, name: str, pieces: AsyncIterable[bytes]) -> bytes:
        data = bytearray()
        async for piece in pieces:
            data += piece
            if len(data) > self.limits.input_file_bytes_max:
                raise _too_large(name, self.limits.input_file_bytes_max)
        return bytes(data)

    # ---- what it is ----------------------------------------------------------------------------

    async def _look_at(self, name: str, data: bytes) -> tuple[int, int]:
        """Width and height, after the whole file was decoded once."""
        async with self.decoding:
            return await asyncio.to_thread(self._decode, name, data)

    def _decode(self, name: str, data: bytes) -> tuple[int, int]:
        limits = self.limits
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                picture = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if min(width, height) < limits.input_side_min:
                side = limits.input_side_min
                bounds: JsonObject = {"min_height": side, "min_width": side}
                text = f"The picture is {width} x {height}: give at least {side} x {side} pixels"
                raise _wrong(name, text, "image_too_small", bounds)
            side = limits.input_side_max
            if max(width, height) > side or width * height > limits.input_pixels_max:
                bounds = {"max_height": side, "max_width": side}
                text = (
                    f"The picture is {width} x {height}: give at most {side} a side and "
                    f"{limits.input_pixels_max} pixels"
                )
                raise _wrong(name, text, _LARGE, bounds)
            picture.load()
        except Image.DecompressionBombError as error:
            side = limits.input_side_max
            bounds = {"max_height": side, "max_width": side}
            raise _wrong(
                name, f"The picture has more than {limits.input_pixels_max} pixels", _LARGE, bounds
            ) from error
        except UnidentifiedImageError as error:
            raise _unreadable(name, f"it is none of {', '.join(FORMATS)}") from error
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise _unreadable(name, str(error)[:200]) from error
        return width, height

    # ---- where it goes -------------------------------------------------------------------------

    async def _leave(self, credential: Credential, name: str, data: bytes) -> str:
        if self.uploads is None:
            if len(data) > INLINE_BYTES_MAX:
                raise _too_large(name, INLINE_BYTES_MAX)
            return "data:application/octet-stream;base64," + base64.b64encode(data).decode()
        message = hashlib.sha256(data).digest() + credential.encode()
        digest = hmac.digest(self.secret, b"quickthaw input 1\n" + message, "sha256")
        key = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        now = self.uploads.now()
        await self.uploads.expiry.mark(KIND, key, now + self.limits.input_kept_seconds)
        # Written anew each time, so that its age is that of its last use.
        await self.uploads.blobs.write(f"inputs/{key}", data)
        return f"blob:inputs/{key}"

    async def _judge(self, key: str, now: float) -> float | None:
        if self.uploads is None or not _NAME.fullmatch(key):
            return None
        async for blob in self.uploads.blobs.under(f"inputs/{key}"):
            if blob.modified_seconds + self.limits.input_kept_seconds <= now:
                await self.uploads.blobs.delete([blob.key])
        return None


def _decides_by_itself(rule: Json) -> bool:
    """Whether the model takes no size, or knows better what to make of a picture's."""
    return not isinstance(rule, Mapping) or rule.get("default", rule) is None


def _fitting(size: tuple[int, int], rule: Json) -> JsonObject:
    """The size nearest to the picture's that the model can draw, and of its shape if there is one
    such."""
    rules = _side_rule(rule, "width"), _side_rule(rule, "height")
    sides = tuple(zip(size, rules, strict=True))
    scale = min(1.0, *(_whole_number(each.get("maximum"), side) / side for side, each in sides))
    scale = max(scale, *(_whole_number(each.get("minimum"), 1) / side for side, each in sides))
    width, height = (_nearest(side * scale, each) for side, each in sides)
    return {"width": width, "height": height}


def _side_rule(rule: Json, side: str) -> Mapping[str, Json]:
    sides = rule.get("properties") if isinstance(rule, Mapping) else None
    found = sides.get(side) if isinstance(sides, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _nearest(pixels: float, rule: Mapping[str, Json]) -> int:
    step = _whole_number(rule.get("multipleOf"), 1)
    least = _whole_number(rule.get("minimum"), step)
    most = _whole_number(rule.get("maximum"), 1 << 20)
    return min(max(round(pixels / step) * step, -(-least // step) * step), most // step * step)


def _whole_number(value: Json, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default


def _not_had(name: str, why: str) -> HttpError:
    return _wrong(name, f"The file could not be downloaded: {why}", "file_download_error")


def _unreadable(name: str, why: str) -> HttpError:
    return _wrong(name, f"The file is no picture that can be read: {why}", "image_load_error")


def _too_large(name: str, bytes_max: int) -> HttpError:
    text = f"The file is over {bytes_max} bytes"
    return _wrong(name, text, "file_too_large", {"max_size": bytes_max})


def _wrong(name: str, text: str, kind: str, context: JsonObject | None = None) -> HttpError:
    item: dict[str, object] = {"loc": ["body", name], "msg": text, "type": kind}
    if context is not None:
        item["ctx"] = context
    return HttpError(422, [item])
