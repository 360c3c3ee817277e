"""The wheel's build hook that compiles the scheduler's core; `scripts/test-compiled` runs it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hook", ROOT / "scripts/compiled_core.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_that_the_hook_names_is_there(hook: ModuleType) -> None:
    folder = ROOT / "scheduler"
    named = [hook.CORE / f"{name}.py" for name in hook.INTERPRETED]
    missing = [path for path in (*named, *hook.BESIDE_THE_CORE) if not (folder / path).exists()]
    assert missing == []


def test_what_is_compiled_needs_nobody_elses_types(hook: ModuleType, tmp_path: Path) -> None:
    """A wheel is built where our libraries are not installed, and there `mypyc` knows less."""
    for source_root in hook.SOURCE_ROOTS:
        shutil.copytree(
            ROOT / source_root / "quickthaw", tmp_path / "quickthaw", dirs_exist_ok=True
        )
    command = [
        sys.executable,
        "-m",
        "mypy",
        *hook.OPTIONS,
        "--no-site-packages",
        "--cache-dir=cache",
    ]
    checked = subprocess.run(
        [*command, *hook.modules(tmp_path)], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_compiled_module_lies_in_the_working_tree() -> None:
    assert list((ROOT / "scheduler").rglob("*.so")) == []


def test_an_editable_build_is_refused(hook: ModuleType) -> None:
    build = hook.CompiledCore(str(ROOT), {}, None, None, "", "wheel")
    with pytest.raises(RuntimeError, match="its core stays Python"):
        build.initialize("editable", {"force_include": {}})
