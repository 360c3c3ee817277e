"""The port for other loaders: what each must say and do to be measured beside ours.

A peer runs in a process of its own that stays alive for the whole benchmark, as a worker would:
its imports, thread pools and pinned buffers are there before its clock starts, and no peer's
memory or threads are in another's way. It is called as its own documentation advises. It is ready
when every byte is in private memory: tensors that are views of a mapped file are cloned, since
nothing of them has been loaded yet.
"""

from __future__ import annotations

import bisect
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from quickthaw.cli.bench.subject import Subject

Tensors = dict[str, dict[str, Any]]
"""What a load gives: by component, then by name."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A peer that is ready to be timed."""

    load: Callable[[], Tensors]
    """Timed. Returns when every byte is where it belongs."""
    fetch: Callable[[str], Tensors] | None = None
    """The same from a web server: given the URL of the folder that has its form of the model."""
    before: Callable[[], None] = lambda: None
    """Not timed: forgets what an earlier load left in memory, where the peer caches."""


class Peer(Protocol):
    """One way of loading. Stateless; made in the parent, opened in its own process."""

    @property
    def name(self) -> str:
        """A word for the command line and the results."""
        ...

    @property
    def title(self) -> str: ...

    @property
    def distribution(self) -> str:
        """What `pip install` calls it."""
        ...

    @property
    def call(self) -> str:
        """The call that is timed, for the report."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Set in its process before anything is imported."""
        ...

    @property
    def covers(self) -> str:
        """`tensors` or `state_dict`: whether buffers that modules make themselves are loaded."""
        ...

    @property
    def http(self) -> bool:
        """Whether it can load from a web server."""
        ...

    def refusal(self, subject: Subject, device: str) -> str | None:
        """Why it cannot take part here, or None."""
        ...

    @property
    def form(self) -> str:
        """The copy of the model on disk that it reads, by a name; several peers may share one."""
        ...

    def files(self, subject: Subject) -> list[Path]:
        """What it reads: made cold or warm before each run."""
        ...

    def convert(self, subject: Subject) -> None:
        """Writes its own form of the model, where it has one. Not timed; runs in its process."""
        ...

    def open(self, subject: Subject, device: str) -> Opened: ...


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What most peers share; each one adds how it loads."""

    name: str
    title: str
    distribution: str
    call: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    covers: str = "tensors"
    form: str = "plain"
    http: bool = False

    def refusal(self, subject: Subject, device: str) -> str | None:
        return not_installed(self.distribution)

    def files(self, subject: Subject) -> list[Path]:
        return list(plain_files(subject).values())

    def convert(self, subject: Subject) -> None:
        write_plain_files(subject)


def not_installed(distribution: str) -> str | None:
    """`not installed: pip install X`, or None if it is."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed: pip install {distribution}"
    return None


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_all(subject: Subject) -> Tensors:
    """The model's tensors by the safetensors library, to convert from; views of the files."""
    from safetensors.torch import load_file

    return {
        name: {key: tensor for key, tensor in load_file(path).items() if not key.startswith("__")}
        for name, path in subject.files.items()
    }


def plain_files(subject: Subject) -> dict[str, Path]:
    """Where `write_plain_files` puts each component."""
    return {name: subject.folder / "plain" / f"{name}.safetensors" for name in subject.files}


def write_plain_files(subject: Subject) -> None:
    """Ordinary safetensors files, as everybody has them: without our alignment and pads."""
    from safetensors.torch import save_file

    paths = plain_files(subject)
    for name, tensors in read_all(subject).items():
        if not (path := paths[name]).exists():
            path.parent.mkdir(exist_ok=True)
            whole = path.with_suffix(".part")
            save_file(tensors, whole, metadata={"format": "pt"})
            whole.rename(path)


def torch_name(device: str) -> str:
    """`cuda` as the device that is meant: not every loader fills the number in."""
    return "cuda:0" if device == "cuda" else device


def wait_for(device: str) -> None:
    """Returns when all copies to the device have arrived."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


class FileMappings:
    """Which addresses of this process belong to mapped files, rather than to private memory."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for line in (
            Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").split("\n")
        ):
            # address perms offset dev inode path: memory without a file has inode 0, and memfd
            # and shared anonymous memory show up as files that were deleted.
            words = line.split(maxsplit=5)
            if len(words) == 6 and words[4] != "0" and not words[5].endswith("(deleted)"):
                start, _, end = words[0].partition("-")
                self._starts.append(int(start, 16))
                self._ends.append(int(end, 16))

    def hold(self, address: int) -> bool:
        index = bisect.bisect_right(self._starts, address) - 1
        return index >= 0 and address < self._ends[index]


def own(tensors: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Clones what a loader gives as views of a mapped file. On a GPU none does."""
    if device != "cpu":
        return dict(tensors)
    return {name: tensor.clone() for name, tensor in tensors.items()}
