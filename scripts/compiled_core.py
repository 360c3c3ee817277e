"""A hook of the wheel's build: the scheduler's core, and what else each request passes, as C.

Off unless HATCH_BUILD_HOOK_ENABLE_CUSTOM is true, as docs/operations.md says; needs a C compiler.
The compiled modules exist in the wheel alone, beside the very sources that they were made from:
none ever lies in the working tree, where it would hide what changes there. The sources are copied
away first, because mypyc leaves what it makes beside what it reads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE_ROOTS = ("proto", "scheduler")
"""What is compiled, and what that imports of ours."""

CORE = Path("quickthaw/scheduler/core")
INTERPRETED = frozenset(
    {
        "__init__",
        "numbers",  # takes the settings' dataclasses apart, when a process starts
        "records",  # marks a function by an attribute, which a compiled one cannot have
        # Data only; mypyc 2.4 fails at a class whose field is annotated with plain `object`, as the
        # payloads are that the core passes on unseen.
        "commands",
        "events",
    }
)
SHELL = Path("quickthaw/scheduler")
BESIDE_THE_CORE = tuple(
    SHELL / f"{name}.py"
    for name in (
        *("clock", "dispatcher", "effects", "ids", "key_gate", "live", "slices", "submissions"),
        *("tallies", "views", "work_units"),
        *("convert/requests", "convert/words", "convert/workers"),
        *("store/account_rows", "store/execution", "store/rows", "store/statements"),
        "store/write_behind",
    )
)
"""As hot as the core. Not what has generators of its own on the event loop, such as the servicers
and the log of events: mypyc compiles none."""

# Types are `scripts/check`'s business: where a wheel is built, what the rest imports is missing.
OPTIONS = (
    *("--namespace-packages", "--explicit-package-bases", "--config-file="),
    *("--follow-imports=silent", "--ignore-missing-imports"),
)

REQUIRES = ("mypy>=2.4", "setuptools>=77")


class CompiledCore(BuildHookInterface[Any]):
    def dependencies(self) -> list[str]:
        return list(REQUIRES)

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises RuntimeError for an editable build, and where the modules cannot be compiled."""
        if version == "editable":
            raise RuntimeError("an editable installation runs its sources: its core stays Python")
        self._folder = Path(tempfile.mkdtemp(prefix="quickthaw-core-"))
        for library in compile_core(Path(self.root), self._folder):
            name = library.relative_to(self._folder).as_posix()
            build_data["force_include"][str(library)] = name
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self._folder)


def modules(folder: Path) -> list[str]:
    """What is compiled, below `folder`, which holds the source root's packages."""
    core = sorted(
        each.name for each in (folder / CORE).glob("*.py") if each.stem not in INTERPRETED
    )
    return [*(str(CORE / name) for name in core), *map(str, BESIDE_THE_CORE)]


def compile_core(root: Path, folder: Path) -> list[Path]:
    """The extension modules, in `folder` where a wheel has them."""
    for source_root in SOURCE_ROOTS:
        shutil.copytree(
            root / source_root / "quickthaw",
            folder / "quickthaw",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
    done = subprocess.run(
        [sys.executable, "-m", "mypyc", *OPTIONS, "--cache-dir=build/mypy", *modules(folder)],
        cwd=folder,
        env={**os.environ, "MYPYC_OPT_LEVEL": "2", "MYPYC_DEBUG_LEVEL": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"the scheduler's core could not be compiled; is there a C compiler, with Python's "
            f"headers? Without HATCH_BUILD_HOOK_ENABLE_CUSTOM nothing is compiled.\n{done.stdout}"
        )
    shutil.rmtree(folder / "build")
    return sorted(folder.rglob("*.so"))
