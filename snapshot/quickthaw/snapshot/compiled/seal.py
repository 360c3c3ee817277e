"""Compiled code is machine code: only what this installation made itself is ever run.

Two locks. Folder and files belong to the user that runs the worker, and nobody else can write
them. And each file's content is signed with a key that this installation made at its first start
and keeps apart from the files, so that code which was copied or planted there is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from quickthaw.snapshot.fields import JsonValue

KEY_BYTES = 32
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(PermissionError):
    """Compiled code, its folder or its key are not as this installation leaves them."""


def check_private(path: Path, *, folder: bool = False) -> None:
    """Raises Untrusted unless `path` is a plain file (or folder) that we alone can change.

    Raises FileNotFoundError if there is none.
    """
    found = path.lstat()
    right_kind = stat.S_ISDIR(found.st_mode) if folder else stat.S_ISREG(found.st_mode)
    if not right_kind:
        raise Untrusted(f"{path}: not a plain {'folder' if folder else 'file'}; remove it")
    if found.st_uid != os.geteuid():
        raise Untrusted(f"{path}: belongs to user {found.st_uid}, not to us; remove it")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise Untrusted(f"{path}: others may write to it; remove it, or chmod go-w if it is yours")


def private_folder(path: Path) -> Path:
    """Makes it, mode 0700, unless it is there; raises Untrusted if it is not ours alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    check_private(path, folder=True)
    return path


def installation_key(path: Path) -> bytes:
    """The key in `path`, made there (mode 0600) at the first call. Raises Untrusted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    if not path.exists():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(temporary, path)  # unlike a rename, this leaves a key that came first
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    check_private(path)
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise Untrusted(f"{path}: others may read it; remove it, a new one is made")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise Untrusted(f"{path}: {len(key)} bytes are no key; remove it, a new one is made")
    return key


def signature(key: bytes, document: Mapping[str, JsonValue]) -> str:
    message = json.dumps(document, sort_keys=True).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def is_signed(key: bytes, document: Mapping[str, JsonValue], given: object) -> bool:
    return isinstance(given, str) and hmac.compare_digest(signature(key, document), given)
