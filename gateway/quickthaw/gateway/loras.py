"""LoRAs that arguments name: fetched once, looked at while they arrive, left for workers to read.

`loras` is fal's list of `{path, scale}`. A path may be an `http(s)://` URL, a link to a file of
this gateway or a `data:` URI; anything else is the id of a model, which the scheduler looks up as
the caller sees the catalog. A URL that was fetched a while ago is not fetched again, and then only
if its server says that it has changed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn
from weakref import WeakValueDictionary

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.outbound import Outbound, OutboundError, OutboundLimits, OutboundTooLarge
from quickthaw.gateway.settings import Limits
from quickthaw.gateway.storage import UploadRefused
from quickthaw.gateway.storage.weights_store import WeightsStore, WeightsTooLarge

ARGUMENT: Final = "loras"
REDIRECTS_MAX: Final = 5
_NOT_MODIFIED: Final = 304
_INLINE_BYTES_MAX: Final = 512 * 1024
"""Of LoRAs inside an input, where there is no blob store."""


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file of this gateway that the caller may read. `name` never means other bytes."""

    name: str
    size_bytes: int
    read: Callable[[], AsyncIterator[bytes]]


FindOwn = Callable[[str, str], Awaitable[OwnFile | None]]
"""The argument's name and a URL; None for somebody else's. Raises HttpError."""


@dataclass(slots=True)
class _Fetched:
    key: str
    etag: str
    fresh_until: float


@dataclass(slots=True)
class Loras:
    limits: Limits
    outbound: Outbound
    store: WeightsStore | None
    """None: small files travel inside the input."""
    now: Callable[[], float]
    _known: OrderedDict[str, _Fetched] = field(default_factory=OrderedDict[str, _Fetched])
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(
        default_factory=WeakValueDictionary[str, asyncio.Lock]
    )
    """A file's lock, for as long as anybody holds it or waits for it."""
    _slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.limits.loras_fetched_max)

    async def bring(self, given: Json, own: FindOwn) -> Json:
        """The list with each file replaced by where a worker finds it. What is no such list is left
        for the schema to refuse. Raises HttpError 422, naming the item."""
        if not isinstance(given, list):
            return given
        if len(given) > self.limits.loras_max:
            text = f"List should have at most {self.limits.loras_max} items, not {len(given)}"
            bounds: JsonObject = {"max_length": self.limits.loras_max}
            raise _refusal([ARGUMENT], text, "sequence_too_long", bounds)
        return [await self._item(index, each, own) for index, each in enumerate(given)]

    async def _item(self, index: int, item: Json, own: FindOwn) -> Json:
        path = item.get("path") if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(path, str):
            return item
        # fal's items may say more, of which nothing changes the picture.
        kept: JsonObject = {name: item[name] for name in ("path", "scale") if name in item}
        if kept.get("scale", 0) is None:
            del kept["scale"]
        if not path.startswith(("http://", "https://", "data:")):
            return kept
        place = f"{ARGUMENT}[{index}].path"
        try:
            return {**kept, "path": await self._brought(place, path, own)}
        except WeightsTooLarge as error:
            bounds: JsonObject = {"max_size": self._bytes_max}
            raise _refusal(
                [ARGUMENT, index, "path"], str(error), "file_too_large", bounds
            ) from error
        except UploadRefused as error:
            raise _refusal([ARGUMENT, index, "path"], str(error), "file_invalid") from error
        except OutboundError as error:
            text = f"The file could not be downloaded: {error}"
            raise _refusal([ARGUMENT, index, "path"], text, "file_download_error") from error
        except HttpError as error:
            raise _moved(error, index) from error

    @property
    def _bytes_max(self) -> int:
        return self.store.file_bytes_max if self.store is not None else _INLINE_BYTES_MAX

    async def _brought(self, place: str, path: str, own: FindOwn) -> str:
        if path.startswith("data:"):
            return await self._keep(place, _pieces(_decoded(place, path)))
        file = await own(ARGUMENT, path)
        name = path if file is None else f"own:{file.name}"
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            return await self._once(place, name, path, file)

    async def _once(self, place: str, name: str, url: str, file: OwnFile | None) -> str:
        """Whoever names the same file meanwhile has waited."""
        known = self._known.get(name)
        if known is not None and (self.store is None or not await self.store.use(known.key)):
            self._known.pop(name, None)
            known = None
        if known is not None and (file is not None or self.now() < known.fresh_until):
            # Others' files may have pushed it out while the store was asked.
            self._known[name] = known
            self._known.move_to_end(name)
            return f"blob:loras/{known.key}"
        async with self._slots:
            if file is not None:
                if file.size_bytes > self._bytes_max:
                    _too_large(place, self._bytes_max)
                fetched = await self._keep(place, file.read())
                etag = ""
            else:
                fetched, etag = await self._fetch(place, url, known)
        if self.store is not None:
            fresh_until = self.now() + self.limits.lora_fresh_seconds
            key = fetched.removeprefix("blob:loras/")
            self._known[name] = _Fetched(key, etag, fresh_until)
            self._known.move_to_end(name)
            while len(self._known) > self.limits.loras_stored_max:
                self._known.popitem(last=False)
        return fetched

    async def _fetch(self, place: str, url: str, known: _Fetched | None) -> tuple[str, str]:
        """Where it is kept, and its server's word for this version of it."""
        bounds = OutboundLimits(self._bytes_max, self.limits.lora_seconds, REDIRECTS_MAX)
        headers = {"if-none-match": known.etag} if known is not None and known.etag else {}
        try:
            async with self.outbound.stream(url, bounds, headers=headers) as answer:
                etag = answer.headers.get("etag", "")[:500]
                if answer.status == _NOT_MODIFIED and known is not None:
                    return f"blob:loras/{known.key}", known.etag
                if answer.status != 200:
                    raise OutboundError(f"the answer was {answer.status}")
                return await self._keep(place, answer.pieces), etag
        except OutboundTooLarge:
            _too_large(place, self._bytes_max)

    async def _keep(self, place: str, pieces: AsyncIterator[bytes]) -> str:
        if self.store is not None:
            return f"blob:loras/{await self.store.keep(place, pieces)}"
        data = bytearray()
        async for piece in pieces:
            data += piece
            if len(data) > _INLINE_BYTES_MAX:
                _too_large(place, _INLINE_BYTES_MAX)
        return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _decoded(place: str, url: str) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64") or len(head) > 200:
        raise UploadRefused(f"{place}: it is a data: URI that is no base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UploadRefused(f"{place}: it is a data: URI that is no base64: {error}") from error


def _too_large(place: str, bytes_max: int) -> NoReturn:
    raise WeightsTooLarge(f"{place}: it is over {bytes_max} bytes")


def _moved(error: HttpError, index: int) -> HttpError:
    """An error about a file of ours, at the item that named it."""
    detail = error.answer.detail
    if isinstance(detail, str):
        return error
    location: list[str | int] = ["body", ARGUMENT, index, "path"]
    return HttpError(error.answer.status, [{**item, "loc": location} for item in detail])


def _refusal(
    where: list[str | int], text: str, kind: str, context: JsonObject | None = None
) -> HttpError:
    item: dict[str, object] = {"loc": ["body", *where], "msg": text, "type": kind}
    if context is not None:
        item["ctx"] = context
    return HttpError(422, [item])
