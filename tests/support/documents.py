"""What README and the pages say that one can type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "deploy/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)

_FENCE = re.compile(r"^ *```[a-z]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
_ENDS = {"|", ">", "&", "&&", ";", "...", "…"}
_PROGRAMS = ("quickthaw", "make", "scripts/", "python")


@dataclass(frozen=True, slots=True)
class Documented:
    """One command. `whole` if it stands in a block, to be typed as it is; in prose a command may be
    named without its arguments."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def documented() -> Iterator[Documented]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _FENCE.findall(text):
            for line in block.replace("\\\n", " ").splitlines():
                yield from _commands(page.name, line, whole=True)
        prose = " ".join(_FENCE.sub("", text).split())
        for code in _INLINE.findall(prose):
            yield from _commands(page.name, code, whole=False)


def _commands(page: str, line: str, *, whole: bool) -> Iterator[Documented]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return  # an answer or a program, not a command
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    if inside := re.search(r"\$\((quickthaw [^)]*)\)", line):
        words = shlex.split(inside[1])
    if not words:
        return
    words[0] = words[0].removeprefix(".venv/bin/")
    if not (words[0] in _PROGRAMS or words[0].startswith("scripts/")):
        return
    kept = []
    for word in words:
        if word in _ENDS or word[:1] in tuple("─│┬"):  # a drawing begins
            break
        kept.append(word)
    yield Documented(page, tuple(kept), whole)


def links() -> Iterator[tuple[Path, str]]:
    """Every page with each of its links to a file of ours."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield page, target
