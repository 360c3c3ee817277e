"""What callers call their files, made harmless: for a URL, for a header, for a store."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from typing import Final

NAME_CHARS_MAX: Final = 200
URL_NAME_CHARS_MAX: Final = 80
BINARY: Final = "application/octet-stream"
_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,80}/[a-z0-9!#$&^_.+-]{1,80}(; ?[ -~]{1,100})?")
_NOT_FOR_URLS: Final = re.compile(r"[^A-Za-z0-9._-]+")


def display_name(given: str, content_type: str) -> str:
    """The name without control characters and paths; one of our own if nothing is left of it."""
    last = re.split(r"[/\\]", given)[-1]
    shown = "".join(each for each in last if unicodedata.category(each)[0] != "C").strip()
    if shown.strip(". "):
        return shown[-NAME_CHARS_MAX:]
    return "file" + (mimetypes.guess_extension(content_type.partition(";")[0]) or "")


def url_name(name: str) -> str:
    """As the last part of a URL, where it only informs: the id before it says what is meant."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return _NOT_FOR_URLS.sub("-", plain)[-URL_NAME_CHARS_MAX:].lstrip(".-") or "file"


def file_url(public_url: str, file_id: str, name: str) -> str:
    """Of an upload; whoever knows the id may read it."""
    return f"{public_url}/files/{file_id}/{url_name(name)}"


def media_type(given: str | None) -> str:
    """A content type as it may stand in a header; bytes of no known kind for anything else."""
    lowered = (given or "").strip().lower()
    return lowered if _TYPE.fullmatch(lowered) else BINARY
