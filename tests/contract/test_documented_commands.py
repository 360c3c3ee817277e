"""What README and the pages tell people to type is understood, and what they link to is there."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from quickthaw.cli.main import app
from quickthaw.cli.packer import settings as packer
from quickthaw.cli.up.passing import passed_on
from quickthaw.gateway import settings as gateway
from quickthaw.scheduler import settings as scheduler
from quickthaw.worker import settings as worker
from support.documents import ROOT, Documented, documented, links

PARTS: dict[str, Callable[[], object]] = {
    "scheduler": lambda: scheduler.parse_settings(["--help"], {}),
    "gateway": lambda: gateway.parse_settings(["--help"], {}),
    "worker": lambda: worker.parse(["--help"], {}),
    "packer": lambda: packer.parse_settings(["--help"]),
}
COMMANDS = list(documented())
OURS = [each for each in COMMANDS if each.words[0] == "quickthaw"]
FILES = ("style.safetensors", "my-lora.safetensors", "mine.jsonl", "prices.toml", "app.py")
FOLDERS = ("my-diffusers-folder", "mine")


def help_of(part: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        PARTS[part]()
    return said.getvalue()


def flags_of(part: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_of(part)))


@pytest.mark.parametrize("part", PARTS)
def test_a_parts_help_says_of_every_flag_what_it_is(part: str) -> None:
    options = re.split(r"\n  (?=-)", help_of(part))[1:]
    silent = [
        option
        for option in options
        if not re.search(r"(\s{2,}|\n\s+)[A-Za-z$].* .*", option.split("\n\n")[0])
    ]
    assert silent == []
    assert len(options) > 10


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_is_one_that_there_is(
    command: Documented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).touch()
    for name in FOLDERS:
        Path(name).mkdir()
    words = list(command.words[1:])
    found: Any = typer.main.get_command(app)
    context: Any = None
    path = "quickthaw"
    while hasattr(found, "commands") and words:
        if words[0] in ("-h", "--help"):
            return
        context = found.make_context(path, words, parent=context)
        words = [*context._protected_args, *context.args]
        if not words:
            return
        path, *words = words
        assert path in found.commands, f"there is no {path!r}; there are {sorted(found.commands)}"
        found = found.commands[path]
    if path in PARTS:
        used = {word for word in words if word.startswith("--")}
        assert used - {"--help"} <= flags_of(path)
    elif command.whole:
        context = found.make_context(path, words, parent=context)
        handed_on = context.params["set_"] if path == "up" else None
        for part, arguments in passed_on(handed_on or ()).items():
            assert {word.partition("=")[0] for word in arguments} <= flags_of(part)
    else:
        known = {option for parameter in found.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word[:1] == "-"} <= {*known, "--help"}


def test_targets_scripts_and_benchmarks_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for each in COMMANDS:
        match each.words:
            case ("make", target, *_):
                there = target in targets
            case ("python", "-m", module, *_):
                there = (ROOT / f"{module.replace('.', '/')}.py").exists() or module == "bench"
            case ("quickthaw" | "python" | "make", *_):
                there = True
            case (script, *_):
                there = (ROOT / script).exists()
            case _:
                there = False
        if not there:
            wrong.append(str(each))
    assert wrong == []


def test_links_between_the_pages_lead_somewhere() -> None:
    wrong = [f"{page.name}: {to}" for page, to in links() if not (page.parent / to).exists()]
    assert wrong == []
