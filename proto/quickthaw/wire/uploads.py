"""How an uploaded file lies in the blob store: what a gateway writes and a packer reads.

uploads/<owner>/<id>/file.json        the record, written last: without it there is no file
uploads/<owner>/<id>/<piece>          data; parts of a multipart upload stay as they came

What a packer leaves for a gateway lies there too, beside what the self-test made, and goes with it:
artifacts/<request id>/preview        the last preview of a deployment's self-test
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

FILE_ID: Final = re.compile(r"[0-9a-f]{16}[A-Za-z0-9_-]{32}")
OWNER_CHARS: Final = 16
"""The beginning of an id says whose it is."""
RECORD_BYTES_MAX: Final = 4 * 1024 * 1024
PREVIEW_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """What a reader needs of `file.json`."""

    tenant: str
    name: str
    pieces: tuple[Piece, ...]
    expires_seconds: float | None
    """Since 1970; None for never."""

    @property
    def size_bytes(self) -> int:
        return sum(piece.size_bytes for piece in self.pieces)

    @classmethod
    def from_json(cls, text: bytes) -> UploadRecord:
        value: dict[str, Any] = json.loads(text)
        kept_seconds = value["lifecycle"]["seconds"]
        return cls(
            tenant=value["tenant"],
            name=value["name"],
            pieces=tuple(Piece(**piece) for piece in value["pieces"]),
            expires_seconds=(
                None if kept_seconds is None else value["created_seconds"] + kept_seconds
            ),
        )


def folder_of(file_id: str) -> str:
    """With a `/` at its end. `file_id` must match `FILE_ID`."""
    return f"uploads/{file_id[:OWNER_CHARS]}/{file_id[OWNER_CHARS:]}/"


def record_key(file_id: str) -> str:
    return f"{folder_of(file_id)}file.json"


def preview_key(request_id: str) -> str:
    return f"artifacts/{request_id}/preview"
