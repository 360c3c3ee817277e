"""The two hashes of the format: SHA-256 names content, XXH3-128 checks blocks at wire speed."""

from __future__ import annotations

import hashlib
import re

import xxhash

BLOCK_BYTES = 4 * 1024 * 1024
BLOCK_HASH_HEX_CHARS = 32
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def is_digest(text: object) -> bool:
    return isinstance(text, str) and _DIGEST.match(text) is not None


def sha256_hex(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def block_hash(content: bytes | memoryview) -> str:
    """Releases the GIL: readers in several threads hash side by side."""
    return xxhash.xxh3_128_hexdigest(content)


class BlockHasher:
    """Hashes a data section block by block while it streams past in pieces of any size."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self._filled = 0
        self._done: list[str] = []

    def update(self, piece: memoryview) -> None:
        while piece:
            part = piece[: BLOCK_BYTES - self._filled]
            self._hash.update(part)
            self._filled += len(part)
            piece = piece[len(part) :]
            if self._filled == BLOCK_BYTES:
                self._close()

    def _close(self) -> None:
        self._done.append(self._hash.hexdigest())
        self._hash.reset()
        self._filled = 0

    def finish(self) -> str:
        """The block hashes in order, as one string; the last block may be short."""
        if self._filled:
            self._close()
        return "".join(self._done)
