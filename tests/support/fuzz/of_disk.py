"""Mutations of the files as they lie: damage, and things that only look like files."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from support.fuzz.draft import Draft, Files

_READABLE_BYTES = 64 << 20


def damage(random_: random.Random, draft: Draft, canary: str) -> str:
    """Unsigned: bits, holes, splices, cuts and growth, anywhere in any file."""
    kind = random_.randrange(7)

    def change(root: Path, files: Files) -> None:
        path = root / random_.choice(files.all)
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _READABLE_BYTES:
            return  # another mutation was here first: a link, a pipe, a hole
        content = bytearray(path.read_bytes())
        place = random_.randrange(len(content)) if content else 0
        size = random_.choice((1, 8, 300, 5000))
        match kind:
            case 0 if content:
                content[place] ^= 1 << random_.randrange(8)
            case 1:
                del content[place:]
            case 2:
                content += random_.randbytes(size)
            case 3:
                content[place : place + size] = bytes(len(content[place : place + size]))
            case 4:
                other = random_.randrange(len(content) + 1)
                content[place : place + size] = content[other : other + size]
            case 5:
                content[place:place] = random_.randbytes(size)
            case _:
                content.clear()
        path.write_bytes(content)

    draft.wreck.append(change)
    return "damage"


def swapped(random_: random.Random, draft: Draft, canary: str) -> str:
    """Two files under each other's names."""

    def change(root: Path, files: Files) -> None:
        one, other = random_.choices(files.all, k=2)
        if one != other:
            os.rename(root / one, root / "swap")
            os.rename(root / other, root / one)
            os.rename(root / "swap", root / other)

    draft.wreck.append(change)
    return "swapped"


def stand_in(random_: random.Random, draft: Draft, canary: str) -> str:
    """A link, pipe, socket, device or folder in place of a file, a folder, or the store's own."""
    kind = random_.choice(
        ("link", "dangling", "loop", "fifo", "socket", "device", "folder", "none")
    )
    whole = random_.random() < 0.25

    def change(root: Path, files: Files) -> None:
        path = root / random_.choice(files.all)
        if whole:
            path = random_.choice((path.parent, root / "components", root / "blobs"))
        match kind:
            case "link":
                # The very bytes that are wanted: following the link would work.
                kept = root / "kept"
                path.rename(kept)
                path.symlink_to(random_.choice((kept, Path(canary) / "secret.json", canary)))
                return
            case "none" if whole:
                shutil.rmtree(path)
                return
            case _:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        match kind:
            case "dangling":
                path.symlink_to("nowhere")
            case "loop":
                path.symlink_to(path.name)
            case "fifo":
                os.mkfifo(path)
            case "socket":
                with socket.socket(socket.AF_UNIX) as made:
                    here = os.open(path.parent, os.O_PATH)
                    try:  # the path of a socket may not be long
                        made.bind(f"/proc/self/fd/{here}/{path.name[:40]}")
                        (path.parent / path.name[:40]).rename(path)
                    finally:
                        os.close(here)
            case "device":
                try:
                    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # zeros without end
                except PermissionError:
                    os.mkfifo(path)
            case "folder":
                path.mkdir()
            case _:
                pass

    draft.wreck.append(change)
    return f"stand_in.{kind}"


def sparse(random_: random.Random, draft: Draft, canary: str) -> str:
    """A file that claims terabytes and occupies nothing."""

    def change(root: Path, files: Files) -> None:
        os.truncate(root / random_.choice(files.all), random_.choice((1 << 30, 1 << 40)))

    draft.wreck.append(change)
    return "sparse"


MUTATIONS: tuple[tuple[int, Callable[[random.Random, Draft, str], str]], ...] = (
    (10, damage),
    (2, swapped),
    (5, stand_in),
    (1, sparse),
)
