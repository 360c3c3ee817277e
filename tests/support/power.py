"""Power cuts: what a folder may look like after one, at any moment of an operation.

`Recorder` writes down what an operation does to the names in a folder and what it makes durable.
`crash_states` builds what a journaling file system may leave of that. The model is stricter than
any one file system: a name is safe once its own folder was synced, a file's bytes once the file
was; everything since may be there or not, in any combination (a rename is still atomic), and bytes
that were not synced may be all there, torn, zeros or gone.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tree = dict[str, bytes | None]
"""By path below the root: a file's bytes, or None for a folder."""
SUBSETS_MAX = 64
"""Combinations of names not yet durable that are tried at one moment; beyond, a sample is."""


@dataclass(frozen=True, slots=True)
class Step:
    """`kind`: create, mkdir, rename or drop (a name, durable with its folder);
    file or folder (synced).

    `content`: of the file, at that moment.
    """

    kind: str
    path: str
    target: str = ""
    content: bytes | None = None


@dataclass(slots=True)
class Recording:
    before: Tree
    after: Tree = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def tree_of(root: Path) -> Tree:
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = path.read_bytes() if path.is_file() else None
    return found


class _Recorder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.recording = Recording(tree_of(root))
        self._lock = threading.RLock()
        self.armed = True

    def path(self, name: Any, folder: Any = None) -> str | None:
        """Below the root, or None for what is elsewhere."""
        if isinstance(name, int):
            text = os.readlink(f"/proc/self/fd/{name}")
        else:
            start = "" if folder is None else os.readlink(f"/proc/self/fd/{folder}")
            text = os.path.join(start, os.fsdecode(name))
        text = os.path.abspath(text)
        if text == str(self.root):
            return "."
        start = f"{self.root}{os.sep}"
        return text.removeprefix(start) if text.startswith(start) else None

    def add(self, kind: str, path: str | None, target: str | None = "") -> None:
        if path is None or target is None or not self.armed:
            return
        content = None
        place = self.root / (target or path)
        if kind in ("file", "rename") and place.is_file():
            content = place.read_bytes()
        with self._lock:
            self.recording.steps.append(Step(kind, path, target, content))

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """New files show up here alone: Python opens them in C."""
        if self.armed and event == "open" and isinstance(arguments[2], int):
            path, _, flags = arguments
            if flags & os.O_CREAT and not isinstance(path, int) and not os.path.lexists(path):
                self.add("create", self.path(path))


@contextmanager
def recording(root: Path) -> Iterator[Recording]:
    """Records what happens below `root` inside the block; of Python code in this process."""
    recorder = _Recorder(root.resolve())
    originals: dict[str, Callable[..., Any]] = {
        name: getattr(os, name) for name in ("fsync", "rename", "unlink", "mkdir", "rmdir")
    }

    def fsync(descriptor: int) -> None:
        originals["fsync"](descriptor)
        path = recorder.path(descriptor)
        inside = path is not None and (recorder.root / path).is_dir()
        recorder.add("folder" if inside else "file", path)

    def rename(source: Any, target: Any, **places: Any) -> None:
        originals["rename"](source, target, **places)
        recorder.add("rename", recorder.path(source), recorder.path(target))

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        name = recorder.path(path, dir_fd)
        originals["unlink"](path, dir_fd=dir_fd)
        recorder.add("drop", name)

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        originals["mkdir"](path, mode, dir_fd=dir_fd)
        recorder.add("mkdir", recorder.path(path, dir_fd))

    def rmdir(path: Any, *, dir_fd: int | None = None) -> None:
        name = recorder.path(path, dir_fd)
        originals["rmdir"](path, dir_fd=dir_fd)
        recorder.add("drop", name)

    sys.addaudithook(recorder.audit)
    patched = {"fsync": fsync, "rename": rename, "unlink": unlink, "mkdir": mkdir, "rmdir": rmdir}
    for name, function in patched.items():
        setattr(os, name, function)
    try:
        yield recorder.recording
    finally:
        recorder.armed = False
        for name, function in originals.items():
            setattr(os, name, function)
        recorder.recording.after = tree_of(root)


def crash_states(recorded: Recording, random_: random.Random) -> Iterator[tuple[int, Tree]]:
    """What may be found after a cut behind the first so many steps; each state once."""
    seen: set[int] = set()
    for cut in range(len(recorded.steps) + 1):
        done = recorded.steps[:cut]
        pending = [index for index, step in enumerate(done) if not _durable(done, index)]
        for lost in _subsets(pending, random_):
            for fate in ("whole", "gone", "zeros", "torn"):
                tree = _replay(recorded, cut, lost, fate, random_)
                key = hash(tuple(sorted(tree.items())))
                if key not in seen:
                    seen.add(key)
                    yield cut, tree


def _durable(done: list[Step], index: int) -> bool:
    """Whether the names that a step changed were synced after it."""
    step = done[index]
    if step.kind in ("file", "folder"):
        return True
    changed = {os.path.dirname(step.target or step.path) or "."}
    synced = {each.path for each in done[index + 1 :] if each.kind == "folder"}
    return changed <= synced


def _subsets(pending: list[int], random_: random.Random) -> Iterator[frozenset[int]]:
    """Which of the pending steps are lost."""
    if 1 << len(pending) <= SUBSETS_MAX:
        for size in range(len(pending) + 1):
            yield from map(frozenset, itertools.combinations(pending, size))
        return
    yield frozenset()
    for start in range(len(pending)):  # as a journal that is written in order loses them
        yield frozenset(pending[start:])
    for _ in range(SUBSETS_MAX - len(pending)):
        yield frozenset(index for index in pending if random_.random() < 0.5)


def _replay(
    recorded: Recording, cut: int, lost: frozenset[int], fate: str, random_: random.Random
) -> Tree:
    files = _Files(recorded.before)
    for index, step in enumerate(recorded.steps[:cut]):
        files.apply(step, recorded.steps[index:], recorded.after, lost=index in lost)
    return files.tree(fate, random_)


class _Inode:
    def __init__(self, durable: bytes | None, later: bytes, *, folder: bool = False) -> None:
        self.durable, self.later, self.folder = durable, later, folder
        self.hidden = False
        """Its name was lost; a later rename that was not brings it to light."""


class _Files:
    """Names to inodes, so that what a rename moves keeps its own bytes."""

    def __init__(self, before: Mapping[str, bytes | None]) -> None:
        self._names = {
            path: _Inode(content, content or b"", folder=content is None)
            for path, content in before.items()
        }

    def apply(self, step: Step, coming: list[Step], after: Tree, *, lost: bool) -> None:
        names = self._names
        match step.kind:
            case "create":
                names[step.path] = _Inode(None, _written(step.path, coming, after))
                names[step.path].hidden = lost
            case "mkdir":
                names[step.path] = _Inode(None, b"", folder=True)
                names[step.path].hidden = lost
            case "rename" if step.path in names and not lost:
                for path in [path for path in names if _within(path, step.path)]:
                    names[step.target + path[len(step.path) :]] = names.pop(path)
                names[step.target].hidden = False
            case "drop" if not lost:
                for path in [path for path in names if _within(path, step.path)]:
                    del names[path]
            case "file" if step.path in names:
                names[step.path].durable = step.content
                names[step.path].later = step.content or b""
            case _:
                pass

    def tree(self, fate: str, random_: random.Random) -> Tree:
        """Without what is in folders that are not there."""
        found: Tree = {}
        for path, inode in sorted(self._names.items()):
            folder = os.path.dirname(path)
            if inode.hidden or (folder and (folder not in found or found[folder] is not None)):
                continue
            found[path] = None if inode.folder else _bytes(inode, fate, random_)
        return found


def _bytes(inode: _Inode, fate: str, random_: random.Random) -> bytes:
    if inode.durable is not None:
        return inode.durable
    later = inode.later
    match fate:
        case "whole":
            return later
        case "gone":
            return b""
        case "zeros":
            return bytes(len(later))
        case _:
            place = len(later) // 2 // 512 * 512
            return later[:place] + bytes(len(later) - place)


def _written(path: str, coming: list[Step], after: Tree) -> bytes:
    """What a new file held when it was synced, renamed or left, whichever came first."""
    for step in coming:
        if step.path == path and step.kind in ("file", "rename", "drop"):
            return step.content or b""
    return after.get(path) or b""


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


def restore(tree: Tree, root: Path) -> None:
    """Writes a state out; `root` must not exist."""
    root.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
